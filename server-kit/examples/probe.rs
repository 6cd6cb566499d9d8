//! Tries what a hostile program would try, for the tests of isolation. Each argument is `WHAT:ARGUMENT`; one
//! line answers each: `WHAT:ARGUMENT ok`, a value, or the name of the error.
#![allow(unsafe_code, reason = "raw system calls are what is tried")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

use std::ffi::{CString, c_int, c_long};
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};

fn call(result: c_long) -> io::Result<String> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok("ok".into()) }
}

fn done<T>(result: io::Result<T>) -> io::Result<String> {
    result.map(|_| "ok".to_owned())
}

fn number(text: &str) -> i32 {
    text.parse().expect("a number")
}

/// A field of this process's status.
fn status(field: &str) -> io::Result<String> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    Ok(line.unwrap_or("absent").trim().replace('\t', " "))
}

/// Bytes of what is filled or mapped.
const SOME: usize = 40 << 20;

/// A file that two processes have mapped, for a while.
fn map(path: &str) -> io::Result<String> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
    file.set_len(SOME as u64)?;
    let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, std::os::fd::AsRawFd::as_raw_fd(&file));
    // SAFETY: a fresh mapping of a file of that length, which nobody makes shorter; only this function knows it.
    unsafe {
        let all = libc::mmap(std::ptr::null_mut(), SOME, protection, libc::MAP_SHARED, fd, 0);
        if all == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        libc::memset(all, 1, SOME);
        let child = libc::fork();
        libc::memset(all, 2, SOME);
        libc::usleep(1_000_000);
        if child == 0 {
            libc::_exit(0);
        }
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    Ok("ok".into())
}

fn attempt(what: &str, argument: &str) -> io::Result<String> {
    let path = CString::new(argument).expect("no NUL");
    // SAFETY: system calls on values that live as long as the call; none gives memory to this process.
    unsafe {
        match what {
            "read" => {
                let mut text = String::new();
                fs::File::open(argument)?.take(4096).read_to_string(&mut text)?;
                Ok(format!("ok {}", text.trim().replace(['\n', '\0'], " ")))
            }
            "write" => done(fs::write(argument, "probe")),
            "append" => done(OpenOptions::new().append(true).open(argument)),
            "list" => Ok(format!("ok {}", fs::read_dir(argument)?.count())),
            "look" => done(fs::symlink_metadata(argument)),
            "device" => done(OpenOptions::new().read(true).write(true).open(argument)),
            "mknod" => call(libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)).into()),
            "connect" => done(UnixStream::connect(argument)),
            "abstract" => done(UnixStream::connect_addr(&SocketAddr::from_abstract_name(argument)?)),
            "tcp" => done(TcpStream::connect(argument)),
            "udp" => done(UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", argument))),
            "unixpair" => done(UnixStream::pair()),
            "signal" => call(libc::kill(number(argument), 0).into()),
            "ptrace" => call(libc::ptrace(libc::PTRACE_SEIZE, number(argument), 0, 0)),
            "io_uring" => call(libc::syscall(libc::SYS_io_uring_setup, 1, [0u8; 256].as_mut_ptr())),
            "unshare" => call(libc::unshare(number(argument)).into()),
            "mount" => call(
                libc::mount(c"none".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()).into(),
            ),
            "umount" => call(libc::umount2(path.as_ptr(), libc::MNT_DETACH).into()),
            "keyctl" => call(libc::syscall(libc::SYS_keyctl, 0, -3, 0)),
            "bpf" => call(libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0)),
            "userfaultfd" => call(libc::syscall(libc::SYS_userfaultfd, 1)),
            "clone3" => call(libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0)),
            "fork" => match libc::fork() {
                0 => libc::_exit(0),
                child => call(child.into()),
            },
            "await" => loop {
                if fs::exists(argument)? {
                    break Ok("ok".into());
                }
                libc::usleep(5000);
            },
            "forks" => {
                let children = (0..number(argument)).take_while(|_| match libc::fork() {
                    0 => loop {
                        libc::pause();
                    },
                    child => child > 0,
                });
                Ok(format!("ok {}", children.count()))
            }
            // Lasting things of the container, by key or name.
            "shm" => call(libc::shmget(number(argument), 4096, libc::IPC_CREAT | 0o600).into()),
            "shm-find" => call(libc::shmget(number(argument), 0, 0).into()),
            "sem" => call(libc::semget(number(argument), 1, libc::IPC_CREAT | 0o600).into()),
            "msg" => call(libc::msgget(number(argument), libc::IPC_CREAT | 0o600).into()),
            "mq" => {
                let (flags, none) = (libc::O_CREAT | libc::O_RDWR, std::ptr::null::<u8>());
                call(libc::syscall(libc::SYS_mq_open, path.as_ptr(), flags, 0o600, none))
            }
            "fill" => done(fs::write(argument, vec![1; SOME])),
            "map" => map(argument),
            "setuid" => call(libc::setuid(number(argument).cast_unsigned()).into()),
            "chown" => call(libc::chown(path.as_ptr(), 0, 0).into()),
            "status" => status(argument),
            "env" => Ok(std::env::var(argument).unwrap_or_default()),
            "pause" => loop {
                libc::pause();
            },
            other => panic!("unknown attempt {other}"),
        }
    }
}

fn name(error: &io::Error) -> String {
    let known: [(c_int, &str); 10] = [
        (libc::EAGAIN, "EAGAIN"),
        (libc::EPERM, "EPERM"),
        (libc::EACCES, "EACCES"),
        (libc::ENOENT, "ENOENT"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EINVAL, "EINVAL"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EROFS, "EROFS"),
        (libc::ESRCH, "ESRCH"),
        (libc::ENETUNREACH, "ENETUNREACH"),
    ];
    let number = error.raw_os_error();
    let found = known.into_iter().find(|(errno, _)| Some(*errno) == number);
    found.map_or_else(|| error.to_string(), |(_, name)| name.to_owned())
}

fn main() {
    for argument in std::env::args().skip(1) {
        let (what, rest) = argument.split_once(':').unwrap_or((&argument, ""));
        let answer = attempt(what, rest).unwrap_or_else(|error| name(&error));
        println!("{argument} {answer}");
    }
}

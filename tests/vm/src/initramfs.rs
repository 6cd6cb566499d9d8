//! The initial file system: an archive in the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{self, Write};

/// Writes entry after entry; a folder comes before what is in it.
pub struct Archive<W> {
    to: W,
    inode: u32,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl<W: Write> Archive<W> {
    pub fn new(to: W) -> Self {
        Self { to, inode: 0 }
    }

    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, FOLDER, &[])
    }

    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, PROGRAM, content)
    }

    pub fn end(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    /// A header of 6 letters and 13 fields of 8 hexadecimal digits, the name, the content; each padded to 4 bytes.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let too_big = |_| io::Error::new(io::ErrorKind::InvalidInput, "more than 4 GiB in one file");
        let size = u32::try_from(content.len()).map_err(too_big)?;
        let name = u32::try_from(path.len() + 1).map_err(too_big)?;
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name, checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(path);
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.write_all(&[0; 3][..bytes.len().wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_kernel_reads() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("a").unwrap();
        archive.file("a/b", b"hello").unwrap();
        let bytes = archive.end().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(text.matches("070701").count(), 3);
        assert!(text.starts_with("07070100000001000041ed0000000000000000000000010000000000000000"));
        assert!(text.contains("00000005") && text.contains("a/b\0\0\0hello\x00\x00\x00070701"), "{text:?}");
        assert!(text.contains("TRAILER!!!\0"));
    }
}

//! Every message survives its own encoding; nothing else is taken for one.

use proptest::prelude::*;

use super::*;

fn counters() -> impl Strategy<Value = Counters> {
    any::<[u64; 7]>().prop_map(
        |[user, system, peak_bytes, read_bytes, write_bytes, resident_bytes, tasks]| Counters {
            user,
            system,
            peak_bytes,
            read_bytes,
            write_bytes,
            resident_bytes,
            tasks,
        },
    )
}

fn strings() -> impl Strategy<Value = Vec<CString>> {
    let string = proptest::collection::vec(1u8.., 0..40).prop_map(|b| CString::new(b).expect("no NUL"));
    proptest::collection::vec(string, 0..12)
}

proptest! {
    #[test]
    fn reports_round_trip(at in any::<i64>(), code in any::<i32>(), signal in any::<i32>(),
                          stopped in any::<bool>(), proven in any::<bool>(), wall in any::<u64>(), counters in counters(), step in prop_oneof![0..5, 16..22]) {
        let step = StartStep::from_raw(step).expect("a step");
        for report in [
            Report::Started { at, pid: code },
            Report::StartFailed { at, step, errno: code },
            Report::Sampled { wall, counters },
            Report::Ended(Ended { at, code, signal, stopped, proven, wall, counters }),
        ] {
            let bytes = report.encode();
            prop_assert!(bytes.len() <= MAX_MESSAGE);
            prop_assert_eq!(Report::decode(&bytes), Ok(report));
            prop_assert!(Report::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        for news in [News::Born { pid: code }, News::BirthFailed { errno: code }, News::Gone { pid: code, orphans: 7 }] {
            prop_assert_eq!(News::decode(&news.encode()), Ok(news));
        }
        for order in [Order::Signal(signal), Order::Kill, Order::Sample, Order::Measure] {
            prop_assert_eq!(Order::decode(&order.encode()), Ok(order));
        }
    }

    #[test]
    fn jobs_round_trip(programs in strings(), args in strings(), env in strings(), cwd in "[a-z/]{0,20}",
                       parts in proptest::collection::vec((0..6usize, any::<Vec<u8>>()), 0..4)) {
        let parts: Vec<_> = parts.into_iter().map(|(axis, bytes)| Part { axis: Axis::ALL[axis], bytes }).collect();
        let job = Job { cwd: CString::new(cwd).expect("no NUL"), programs, args, env, parts };
        let bytes = job.encode();
        let read = JobRef::decode(&bytes).expect("decodes");
        let owned = |list: &[&CStr]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        prop_assert_eq!(&owned(&read.programs), &job.programs);
        prop_assert_eq!(&owned(&read.args), &job.args);
        prop_assert_eq!(&owned(&read.env), &job.env);
        let parts: Vec<_> = read.parts.iter().map(|p| Part { axis: p.axis, bytes: p.bytes.to_vec() }).collect();
        prop_assert_eq!(&parts, &job.parts);
        prop_assert_eq!(read.cwd, job.cwd.as_c_str());
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = (Report::decode(&bytes), News::decode(&bytes), Order::decode(&bytes), JobRef::decode(&bytes).is_ok());
    }
}

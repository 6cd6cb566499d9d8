//! One leader at a time, by a Lease.
//!
//! The rules are client-go's: whoever sees a holder's Lease unchanged for its whole
//! duration, by its own clock, may take it; the holder renews well before that, and
//! stops working if it cannot. Writes carry the resourceVersion that was read.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kruntimes_daemon::CancellationToken;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

/// A Lease that was not renewed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long stops.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two tries.
const RETRY: Duration = Duration::from_secs(2);

/// What to do about a Lease as read.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// It is held by somebody else and may be alive.
    Wait,
    /// Take or renew it with this spec.
    Write(Box<LeaseSpec>),
}

/// A holder's Lease, and since when it was seen unchanged.
#[derive(Debug, Default)]
struct Observed {
    record: Option<(Option<String>, Option<MicroTime>)>,
    since: Duration,
}

impl Observed {
    /// Decides for `me`. `mono` is any monotonic clock of this process.
    fn step(&mut self, lease: Option<&LeaseSpec>, me: &str, wall: Timestamp, mono: Duration) -> Step {
        let record = lease.map(|spec| (spec.holder_identity.clone(), spec.renew_time.clone()));
        if record != self.record {
            self.record = record;
            self.since = mono;
        }
        let holder =
            lease.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
        let promised = lease.and_then(|spec| spec.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
        let promised = promised.map_or(DURATION, Duration::from_secs);
        if holder.is_some_and(|holder| holder != me) && self.since + promised > mono {
            return Step::Wait;
        }
        let is_mine = holder == Some(me);
        let old = lease.cloned().unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or(0) + i32::from(!is_mine && lease.is_some());
        Step::Write(Box::new(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: if is_mine { old.acquire_time } else { Some(MicroTime(wall)) },
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions),
            ..old
        }))
    }
}

/// A Lease that this process holds.
#[derive(Debug)]
pub struct Held {
    lost: CancellationToken,
    stop: CancellationToken,
    renewal: tokio::task::JoinHandle<()>,
}

impl Held {
    /// Cancelled when the Lease could not be renewed in time.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the Lease back, so that the next leader need not wait.
    pub async fn release(self) {
        self.stop.cancel();
        if let Err(error) = self.renewal.await {
            tracing::warn!(%error, "the lease could not be released");
        }
    }
}

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Mine,
    Theirs,
    /// The API gave no answer.
    Unknown,
}

struct Elector {
    leases: Api<Lease>,
    name: String,
    me: String,
    observed: Observed,
    start: Instant,
    leads: bool,
}

/// Waits until this process holds the Lease, or `stop` (`None`).
///
/// # Errors
/// None today: trouble with the API is logged and tried again.
pub async fn acquire(
    client: &Client,
    namespace: &str,
    name: &str,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Held>> {
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let me = format!("{host}_{:016x}", rand::random::<u64>());
    let mut elector = Elector {
        leases: Api::namespaced(client.clone(), namespace),
        name: name.to_owned(),
        me,
        observed: Observed::default(),
        start: Instant::now(),
        leads: false,
    };
    tracing::info!(namespace, lease = name, identity = elector.me, "waiting for the lease");
    while elector.try_once().await != Standing::Mine {
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    elector.leads = true;
    tracing::info!(namespace, lease = name, "leading");
    let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
    let renewal = tokio::spawn(renew(elector, lost.clone(), stop.clone()));
    Ok(Some(Held { lost, stop, renewal }))
}

async fn renew(mut elector: Elector, lost: CancellationToken, stop: CancellationToken) {
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return elector.give_back().await,
            () = tokio::time::sleep(RETRY) => {}
        }
        let attempt = Instant::now();
        match elector.try_once().await {
            Standing::Mine => renewed = attempt,
            Standing::Unknown if renewed.elapsed() <= DEADLINE => {}
            standing @ (Standing::Theirs | Standing::Unknown) => {
                tracing::error!(?standing, "the lease was not renewed");
                return lost.cancel();
            }
        }
    }
}

impl Elector {
    /// One read and, if it may be ours, one write.
    async fn try_once(&mut self) -> Standing {
        match tokio::time::timeout(RETRY * 2, self.read_and_write()).await {
            Ok(Ok(true)) => Standing::Mine,
            Ok(Ok(false)) => Standing::Theirs,
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "the lease cannot be read or written");
                Standing::Unknown
            }
            Err(_) => Standing::Unknown,
        }
    }

    async fn read_and_write(&mut self) -> Result<bool, kube::Error> {
        let lease = self.leases.get_opt(&self.name).await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let Step::Write(spec) = self.observed.step(spec, &self.me, Timestamp::now(), self.start.elapsed())
        else {
            return Ok(false);
        };
        let params = PostParams::default();
        let result = match lease {
            Some(lease) => {
                let metadata = ObjectMeta { managed_fields: None, ..lease.metadata };
                let lease = Lease { metadata, spec: Some(*spec) };
                self.leases.replace(&self.name, &params, &lease).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                self.leases.create(&params, &Lease { metadata, spec: Some(*spec) }).await
            }
        };
        match result {
            Ok(_) => Ok(true),
            // Somebody else was faster, or a write of ours that seemed lost did arrive: look again.
            Err(kube::Error::Api(status)) if status.code == 409 && !self.leads => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn give_back(&mut self) {
        let empty = async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            let Some(spec) =
                lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.me))
            else {
                return Ok(());
            };
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        };
        if let Err(error) = empty.await {
            tracing::warn!(lease = self.name, %error, "the lease could not be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn take(step: Step) -> LeaseSpec {
        match step {
            Step::Write(spec) => *spec,
            Step::Wait => panic!("must not wait"),
        }
    }

    #[test]
    fn a_free_lease_is_taken_and_renewed() {
        let mut mine = Observed::default();
        let taken = take(mine.step(None, "a", at(0), Duration::ZERO));
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("a"), Some(0)));
        let renewed = take(mine.step(Some(&taken), "a", at(2), Duration::from_secs(2)));
        assert_eq!(renewed.acquire_time, taken.acquire_time);
        assert_eq!(renewed.renew_time, Some(MicroTime(at(2))));
        assert_eq!(renewed.lease_transitions, Some(0));
    }

    #[test]
    fn a_held_lease_is_taken_only_after_it_stood_still_by_the_own_clock() {
        let mut theirs = Observed::default();
        let mut lease = take(theirs.step(None, "a", at(0), Duration::ZERO));
        let mut other = Observed::default();
        // Wall clocks say that it has long expired: that is not believed.
        assert_eq!(other.step(Some(&lease), "b", at(1000), Duration::from_secs(100)), Step::Wait);
        assert_eq!(other.step(Some(&lease), "b", at(1014), Duration::from_secs(114)), Step::Wait);
        lease.renew_time = Some(MicroTime(at(10)));
        assert_eq!(other.step(Some(&lease), "b", at(1016), Duration::from_secs(116)), Step::Wait);
        assert_eq!(other.step(Some(&lease), "b", at(1030), Duration::from_secs(130)), Step::Wait);
        let taken = take(other.step(Some(&lease), "b", at(1031), Duration::from_secs(131)));
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(1)));
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let lease = LeaseSpec { holder_identity: Some(String::new()), ..LeaseSpec::default() };
        take(Observed::default().step(Some(&lease), "b", at(0), Duration::ZERO));
    }
}

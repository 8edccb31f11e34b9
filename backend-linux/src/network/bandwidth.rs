//! How fast a container's link is: a token bucket (`tbf`) for each direction, at the end where the packets come from.

use std::os::fd::{AsFd, BorrowedFd};

use protocol::BandwidthLimits;
use rustix::{io::Errno, net::netdevice::name_to_index};

use super::{
    Assignment, Error, Network,
    link::peer_index,
    netlink::{self, Message, Socket, flags},
    pool::Error as PoolError,
};

const NEW_QDISC: u16 = 36;
/// In a packet's length there is the Ethernet header, too.
const ETHERNET_HEADER_BYTES: u64 = 14;
/// As much at once as the kernel can count.
const BURST_MAX_BYTES: u64 = u32::MAX as u64;
/// A TiB a second: no link is faster.
const RATE_MAX_BYTES_PER_SECOND: u64 = 1 << 40;
/// Where the spec leaves it open: two of the largest packets that a link carries before it cuts them up.
const BURST_DEFAULT_BYTES: u64 = 128 << 10;
/// So much waits for its turn at least; the rest is dropped, which is how senders learn of the limit.
const QUEUE_MIN_BYTES: u64 = 128 << 10;
/// How long what waits may have to wait where that is more.
const QUEUES_PER_SECOND: u64 = 20;

/// The numbers of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    rate_bytes_per_second: u64,
    burst_bytes: u32,
    queue_bytes: u32,
}

impl Bucket {
    /// None: there is no limit. An error names the field of a spec.
    fn new(limits: BandwidthLimits, mtu: u32) -> Result<Option<Bucket>, PoolError> {
        let BandwidthLimits { rate_bytes_per_second: rate, burst_bytes: burst } = limits;
        let invalid = |field, reason| Err(PoolError::Invalid { field, reason });
        if rate == 0 && burst == 0 {
            return Ok(None);
        }
        if rate == 0 {
            let reason = format!("{burst} bytes at once mean nothing without a rate");
            return invalid("limits.bandwidth_limits.rate", reason);
        }
        if rate > RATE_MAX_BYTES_PER_SECOND {
            let reason =
                format!("{rate} bytes a second are more than {RATE_MAX_BYTES_PER_SECOND}: leave it out");
            return invalid("limits.bandwidth_limits.rate", reason);
        }
        let packet = u64::from(mtu) + ETHERNET_HEADER_BYTES;
        if burst > 0 && !(packet..=BURST_MAX_BYTES).contains(&burst) {
            let reason = format!("{burst} bytes are not between one packet, {packet}, and {BURST_MAX_BYTES}");
            return invalid("limits.bandwidth_limits.burst", reason);
        }
        let burst = if burst > 0 { burst } else { default_burst_bytes(rate) };
        let queue = QUEUE_MIN_BYTES.max(rate / QUEUES_PER_SECOND);
        let bounded = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        Ok(Some(Bucket {
            rate_bytes_per_second: rate,
            burst_bytes: bounded(burst),
            queue_bytes: bounded(queue),
        }))
    }

    /// Puts it at a link's end, in the place of what is there.
    fn set(self, what: &'static str, index: u32) -> Message {
        const ROOT: u32 = u32::MAX;
        const KIND: u16 = 1;
        const OPTIONS: u16 = 2;
        const PARAMETERS: u16 = 1;
        const RATE64: u16 = 4;
        const BURST: u16 = 6;
        /// The kernel then needs no table of how long packets of each length take.
        const LINK_LAYER_ETHERNET: u8 = 1;
        let mut header = [0; 20];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[12..16].copy_from_slice(&ROOT.to_ne_bytes());
        // Two of `struct tc_ratespec`, the rate and no peak rate, then three numbers, of which only the first counts:
        // the burst is given in bytes beside them.
        let mut parameters = [0; 36];
        let rate = u32::try_from(self.rate_bytes_per_second).unwrap_or(u32::MAX);
        parameters[1] = LINK_LAYER_ETHERNET;
        parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
        parameters[24..28].copy_from_slice(&self.queue_bytes.to_ne_bytes());
        Message::new(what, NEW_QDISC, flags::CREATE | flags::REPLACE, &header).text(KIND, "tbf").nested(
            OPTIONS,
            |options| {
                options
                    .bytes(PARAMETERS, &parameters)
                    .bytes(RATE64, &self.rate_bytes_per_second.to_ne_bytes())
                    .u32(BURST, self.burst_bytes)
            },
        )
    }
}

/// Whether a link with that MTU can have these limits. An error names the field of a spec.
pub fn check(limits: BandwidthLimits, mtu: u32) -> protocol::Result<()> {
    match Bucket::new(limits, mtu) {
        Ok(_) => Ok(()),
        Err(PoolError::Invalid { field, reason }) => Err(protocol::Error::Invalid { field, reason }),
        Err(error) => Err(protocol::Error::failed(&error)),
    }
}

/// How much goes at once where the spec leaves it open.
pub fn default_burst_bytes(rate_bytes_per_second: u64) -> u64 {
    BURST_DEFAULT_BYTES.max(rate_bytes_per_second / QUEUES_PER_SECOND)
}

impl Network {
    /// Whether containers can have these limits. An error names the field of a spec.
    pub fn check_bandwidth(&self, limits: BandwidthLimits) -> protocol::Result<()> {
        check(limits, self.mtu)
    }

    /// Limits both directions of a container's link. `socket` is as [`attach`](Network::attach) has it. Once more does
    /// no harm.
    pub async fn limit_bandwidth(
        &self,
        assignment: &Assignment,
        limits: BandwidthLimits,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let Some(bucket) = Bucket::new(limits, assignment.mtu)? else { return Ok(()) };
        let socket = socket.try_clone_to_owned().map_err(|source| Error::System {
            what: "duplicate a descriptor of the network namespace",
            source,
        })?;
        let (link, same_link) = (assignment.host_link.clone(), assignment.host_link.clone());
        self.kernel
            .with_links_then(
                move |links| {
                    let index = name_to_index(links.as_fd(), &link).map_err(|error| Error::Link {
                        link: link.clone(),
                        source: netlink::Error::Refused { what: "find the link", source: error.into() },
                    })?;
                    let what = "limit the bandwidth of host's end of veth";
                    set(links, bucket.set(what, index), link)?;
                    Ok(index)
                },
                move |index, _| {
                    let what = "limit the bandwidth of container's end of veth";
                    set(&mut Socket::from(socket), bucket.set(what, peer_index(index)), same_link)
                },
            )
            .await
    }
}

fn set(socket: &mut Socket, message: Message, link: String) -> Result<(), Error> {
    socket.transact(vec![message.acknowledged()]).map_err(|error| refused(error, link))
}

fn refused(source: netlink::Error, link: String) -> Error {
    match source.errno() {
        Some(Errno::NOENT) => Error::NoTokenBucket,
        _ => Error::Link { link, source },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(rate_bytes_per_second: u64, burst_bytes: u64) -> BandwidthLimits {
        BandwidthLimits { rate_bytes_per_second, burst_bytes }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused_by_the_fields_name() {
        for (rate, burst, field) in [
            (0, 1500, "limits.bandwidth_limits.rate"),
            (u64::MAX, 0, "limits.bandwidth_limits.rate"),
            (1 << 20, 1, "limits.bandwidth_limits.burst"),
            (1 << 20, 1513, "limits.bandwidth_limits.burst"),
            (1 << 20, 1 << 32, "limits.bandwidth_limits.burst"),
        ] {
            let error = Bucket::new(limits(rate, burst), 1500).unwrap_err();
            assert!(
                matches!(error, PoolError::Invalid { field: of, .. } if of == field),
                "{rate} {burst}: {error}"
            );
        }
        assert_eq!(Bucket::new(limits(0, 0), 1500).unwrap(), None);
        assert!(Bucket::new(limits(1, 1514), 1500).unwrap().is_some());
        assert!(Bucket::new(limits(1 << 40, (1 << 32) - 1), 1500).unwrap().is_some());
    }

    #[test]
    fn a_kernel_without_token_buckets_is_named() {
        let refusal = |errno: Errno| netlink::Error::Refused { what: "limit", source: errno.into() };
        let text = protocol::Error::failed(&refused(refusal(Errno::NOENT), "g-12345678".into())).to_string();
        assert_eq!(text, "limits.bandwidth_limits: this kernel has no token buckets (sch_tbf)");
        let text = protocol::Error::failed(&refused(refusal(Errno::NODEV), "g-12345678".into())).to_string();
        assert!(text.starts_with("network link g-12345678: limit: No such device"), "{text}");
    }

    proptest! {
        #[test]
        fn each_packet_of_the_link_fits_into_the_bucket_and_the_queue(
            rate in 1..=RATE_MAX_BYTES_PER_SECOND,
            burst in prop_oneof![Just(0), 1514..=BURST_MAX_BYTES],
        ) {
            let bucket = Bucket::new(limits(rate, burst), 1500).unwrap().unwrap();
            prop_assert_eq!(bucket.rate_bytes_per_second, rate);
            prop_assert!(bucket.burst_bytes >= 1514 && bucket.queue_bytes >= 65536 + 14);
            prop_assert!(burst == 0 || u64::from(bucket.burst_bytes) == burst);
        }
    }
}

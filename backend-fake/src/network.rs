//! Pools of numbers, and host ports.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use protocol::{Error, NetIn, Result};

use crate::sync::lock;

/// Numbers below a size, each given out once at a time.
pub(crate) struct Pool {
    first: u32,
    size: u32,
    taken: Mutex<BTreeSet<u32>>,
}

/// A number that goes back to its pool when dropped.
pub(crate) struct Lease {
    pub number: u32,
    pool: Arc<Pool>,
}

impl Pool {
    pub fn new(first: u32, size: u32) -> Arc<Pool> {
        Arc::new(Pool { first, size, taken: Mutex::default() })
    }

    /// The lowest free number.
    pub fn take(self: &Arc<Self>) -> Option<Lease> {
        let mut taken = lock(&self.taken);
        let number = (self.first..self.first + self.size).find(|number| !taken.contains(number))?;
        taken.insert(number);
        Some(Lease { number, pool: self.clone() })
    }

    /// This number, also from outside of the pool, if it is free.
    pub fn take_this(self: &Arc<Self>, number: u32) -> Option<Lease> {
        lock(&self.taken).insert(number).then(|| Lease { number, pool: self.clone() })
    }

    /// How many of the pool are given out.
    pub fn in_use(&self) -> usize {
        lock(&self.taken).range(self.first..self.first + self.size).count()
    }

    pub fn size(&self) -> u32 {
        self.size
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.pool.taken).remove(&self.number);
    }
}

/// A port of the host that leads to one of a container's.
pub(crate) struct Mapping {
    pub container_port: u16,
    host_port: Lease,
}

impl Mapping {
    /// Takes what `wanted` asks for: host port 0 is one from the pool, container port 0 the same as the host's.
    pub fn new(ports: &Arc<Pool>, wanted: NetIn) -> Result<Mapping> {
        let host_port = match wanted.host_port {
            0 => ports.take().ok_or_else(|| Error::Failed {
                message: format!("net_in: all {} ports of the pool are in use", ports.size()),
            })?,
            port => ports.take_this(port.into()).ok_or_else(|| {
                Error::invalid("host_port", format!("{port} is already mapped to a container"))
            })?,
        };
        let mut mapping = Mapping { container_port: wanted.container_port, host_port };
        if mapping.container_port == 0 {
            mapping.container_port = mapping.host_port();
        }
        Ok(mapping)
    }

    pub fn host_port(&self) -> u16 {
        self.host_port.number as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_port_leaves_the_pool_and_comes_back() {
        let ports = Pool::new(61001, 2);
        let map = |host_port, container_port| {
            let mapping = Mapping::new(&ports, NetIn { host_port, container_port })?;
            Ok::<_, Error>((mapping.host_port(), mapping.container_port, mapping))
        };
        let first = map(61001, 80).unwrap();
        assert_eq!((first.0, first.1), (61001, 80));
        let second = map(0, 0).unwrap();
        assert_eq!((second.0, second.1), (61002, 61002));
        assert!(map(0, 0).is_err());
        assert!(map(61002, 1).is_err());
        let outside = map(80, 1).unwrap();
        assert_eq!(ports.in_use(), 2);
        drop((first, outside));
        assert_eq!(map(0, 0).unwrap().0, 61001);
    }
}

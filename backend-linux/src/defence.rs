//! What stands between the processes of a container and the host: a name for each defence.
//!
//! Tests show that an attack succeeds without the defence that is meant to stop it, and is refused with it. So debug
//! builds can leave one out. Release builds cannot: they have no place to note that in.

use serde::{Deserialize, Serialize};

/// One thing that stops an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Defence {
    /// Processes have no more capabilities than those of their kind.
    Capabilities,
    /// Processes have no descriptors but their standard streams.
    ClosedDescriptors,
    /// The host's tree is let go of before anything of an image is looked at.
    DetachedHost,
    /// Processes have no devices but those of the list.
    Devices,
    /// Files of /proc and /sys that tell about the host are covered.
    MaskedPaths,
    /// Nobody traces a process that has not executed a program of the container's yet, nor looks at it in /proc.
    NotDumpable,
    /// Mounts find their places by descriptor, through no link of the image.
    PlacesByDescriptor,
    /// What is mounted on the host later does not appear in a container, nor the other way round.
    PrivateMounts,
    /// Files of /proc that act on the host are read-only.
    ReadOnlyPaths,
    /// What a supervisor executes is a copy in memory that nobody can write to.
    SealedInit,
    /// System calls that reach beyond a container are refused.
    Seccomp,
    /// Packets leave a container under its own address only.
    SourceAddress,
}

/// The defences of a container: all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defences {
    /// But for these, for tests.
    #[cfg(debug_assertions)]
    #[serde(default)]
    without: Vec<Defence>,
}

impl Defences {
    /// All but one.
    #[cfg(debug_assertions)]
    pub fn without(defence: Defence) -> Defences {
        Defences::without_all(&[defence])
    }

    /// All but these: some attacks are stopped by more than one.
    #[cfg(debug_assertions)]
    pub fn without_all(defences: &[Defence]) -> Defences {
        Defences { without: defences.to_vec() }
    }

    /// Whether containers have this one.
    #[cfg(debug_assertions)]
    pub fn have(&self, defence: Defence) -> bool {
        !self.without.contains(&defence)
    }

    /// Whether containers have this one: always.
    #[cfg(not(debug_assertions))]
    pub fn have(&self, _: Defence) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(debug_assertions))]
    fn no_message_takes_a_defence_away_from_a_release_build() {
        let defences: Defences = serde_json::from_str(r#"{"without":["Capabilities"]}"#).unwrap();
        assert!(defences.have(Defence::Capabilities));
    }

    #[test]
    #[cfg(debug_assertions)]
    fn a_defence_that_is_left_out_leaves_the_others() {
        let message = serde_json::to_string(&Defences::without(Defence::Capabilities)).unwrap();
        let defences: Defences = serde_json::from_str(&message).unwrap();
        assert!(!defences.have(Defence::Capabilities));
        assert!(defences.have(Defence::MaskedPaths));
        assert!(serde_json::from_str::<Defences>("{}").unwrap().have(Defence::Capabilities));
    }
}

//! Locking without a case to handle.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. A panic while the lock was held (a scripted program's, say) leaves data that is still whole: every change
/// below a lock of this crate is a few assignments.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

use std::os::fd::AsFd;

use futures_util::StreamExt;
use rustix::event::{EventfdFlags, eventfd};
use tokio::time::advance;

use super::*;
use crate::supervisor::{RING_CAPACITY_BYTES, RingWriter};

fn channel() -> (RingWriter, Arc<Channel>) {
    let writer = RingWriter::new("test").unwrap();
    let room = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    let budget = OutputBudget::new(1 << 30);
    let channel = Channel::new(writer.as_fd().try_clone_to_owned().unwrap(), room, &budget).unwrap();
    (writer, Arc::new(channel))
}

#[tokio::test(start_paused = true)]
async fn a_reader_with_nothing_to_read_has_its_five_seconds_once_there_is() {
    let (mut writer, channel) = channel();
    let mut reader = channel.reader(0);
    writer.append(b"early").unwrap();
    channel.tell_news();
    assert_eq!(reader.next().await.unwrap().unwrap(), "early");
    reader.passed_on(5);
    advance(STALL_LIMIT * 2).await;

    writer.append(&vec![0; RING_CAPACITY_BYTES as usize]).unwrap();
    channel.tell_news();
    assert!(!channel.give_up_on_stalled());
    assert_eq!(writer.room_bytes(true), 0, "it holds what came after the silence");
    advance(STALL_LIMIT).await;
    assert!(channel.give_up_on_stalled());
    assert_eq!(writer.room_bytes(true), RING_CAPACITY_BYTES);
}

#[tokio::test]
async fn what_a_client_has_is_wanted_while_another_has_yet_to_open_it() {
    let (mut writer, channel) = channel();
    let silent = channel.awaited();
    assert!(channel.is_unwanted(), "there is nothing");
    drop(silent);
    writer.append(b"output").unwrap();
    assert!(!channel.is_unwanted(), "nobody has it");
    let mut reader = channel.reader(0);
    let other = channel.awaited();
    assert_eq!(reader.next().await.unwrap().unwrap(), "output");
    reader.passed_on(6);
    drop(reader);
    assert!(!channel.is_unwanted(), "the other client has yet to open it");
    drop(other);
    assert!(channel.is_unwanted());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_behind_stalls_however_much_more_comes() {
    let (mut writer, channel) = channel();
    let _reader = channel.reader(0);
    for _ in 0..5 {
        writer.append(b"more").unwrap();
        channel.tell_news();
        assert!(!channel.give_up_on_stalled());
        advance(STALL_LIMIT / 5).await;
    }
    assert!(channel.give_up_on_stalled());
}

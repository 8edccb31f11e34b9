use std::{sync::Barrier, thread};

use rustix::{fs::fstat, pipe::pipe};

use super::*;

const MIB: u64 = 1024 * 1024;

fn ring() -> (RingWriter, RingReader) {
    let writer = RingWriter::new("test").unwrap();
    let reader = RingReader::new(writer.memfd.try_clone().unwrap()).unwrap();
    (writer, reader)
}

fn read(reader: &RingReader, position: u64, limit: usize) -> Chunk {
    reader.read(position, limit, &mut BytesMut::new()).unwrap()
}

fn data(position: u64, bytes: &'static [u8]) -> Chunk {
    Chunk::Data { position, bytes: Bytes::from_static(bytes) }
}

/// What stands at `position` and behind it: the same bytes over and over, in a round that no power of two divides.
fn block(position: u64, length: u64) -> Vec<u8> {
    let rounds: Vec<u8> = (0..=250).collect::<Vec<u8>>().repeat(length as usize / 251 + 2);
    rounds[(position % 251) as usize..][..length as usize].to_vec()
}

/// How much memory the ring takes.
fn memory_bytes(writer: &RingWriter) -> u64 {
    fstat(&writer.memfd).unwrap().st_blocks as u64 * 512
}

#[test]
fn what_is_written_is_read_by_offset_and_then_the_end() {
    let (mut writer, reader) = ring();
    assert_eq!(read(&reader, 0, 10), Chunk::Empty);
    writer.append(b"hello world").unwrap();
    assert_eq!(read(&reader, 0, 5), data(0, b"hello"));
    assert_eq!(read(&reader, 5, 100), data(5, b" world"));
    assert_eq!(read(&reader, 11, 100), Chunk::Empty);
    writer.close();
    assert_eq!(read(&reader, 11, 100), Chunk::End);
    assert_eq!(read(&reader, 0, 5), data(0, b"hello"));
}

#[test]
fn without_a_hold_the_oldest_bytes_go_and_are_counted() {
    let (mut writer, reader) = ring();
    let block = vec![7; RING_CAPACITY_BYTES as usize];
    writer.append(&block).unwrap();
    reader.set_delivered(3);
    writer.append(b"12345").unwrap();
    assert_eq!(reader.dropped(), 2, "three of the five had been delivered");
    assert!(matches!(read(&reader, 0, 1), Chunk::Data { position: 5, .. }));
    assert_eq!(read(&reader, RING_CAPACITY_BYTES, 9), data(RING_CAPACITY_BYTES, b"12345"));
}

#[test]
fn a_hold_leaves_room_only_behind_it() {
    let (mut writer, reader) = ring();
    writer.append(&[1; 1000]).unwrap();
    reader.hold(Some(400));
    assert_eq!(writer.room_bytes(true), RING_CAPACITY_BYTES - 600);
    assert_eq!(writer.room_bytes(false), RING_CAPACITY_BYTES);
    reader.hold(Some(u64::MAX - 5));
    assert_eq!(writer.room_bytes(true), RING_CAPACITY_BYTES, "a senseless hold is none");
    reader.hold(Some(1 << 40));
    assert_eq!(writer.room_bytes(true), RING_CAPACITY_BYTES, "nor is one of the future");
}

#[test]
fn what_is_moved_from_a_pipe_is_what_was_written_to_it() {
    let (mut writer, reader) = ring();
    let (from, to) = pipe().unwrap();
    // To just before the ring's seam.
    writer.append(&vec![0; RING_CAPACITY_BYTES as usize - 3]).unwrap();
    let start = writer.written;
    rustix::io::write(&to, b"across the seam").unwrap();
    writer.append_from(&from, 15).unwrap();
    assert_eq!(read(&reader, start, 100), data(start, b"acr"));
    writer.append_from(&from, 12).unwrap();
    assert_eq!(read(&reader, start + 3, 100), data(start + 3, b"oss the seam"));
}

#[test]
fn a_limit_bounds_the_memory_of_a_ring_that_nobody_reads() {
    let (mut writer, reader) = ring();
    reader.set_limit_bytes(MIB);
    writer.keep_to_limit(false);
    for position in (0..40 * MIB).step_by(65_536) {
        writer.append(&block(position, 65_536)).unwrap();
        // The counters, the limit, and the page in which the oldest byte lies.
        assert!(memory_bytes(&writer) <= MIB + 2 * PAGE_BYTES, "{} at {position}", memory_bytes(&writer));
    }
    assert_eq!(reader.dropped(), 39 * MIB);
    let Chunk::Data { position, bytes } = read(&reader, 0, MIB as usize) else { panic!("no data") };
    assert_eq!((position, bytes.len() as u64), (39 * MIB, MIB));
    assert!(bytes == block(position, MIB));
}

#[test]
fn a_lower_limit_takes_the_oldest_bytes_but_none_that_is_held() {
    let (mut writer, reader) = ring();
    // More than once around, so that the pages do not lie in order.
    writer.append(&block(0, 10 * MIB)).unwrap();
    writer.append(&block(10 * MIB, 10 * MIB)).unwrap();
    reader.hold(Some(14 * MIB));
    reader.set_limit_bytes(2 * MIB);
    writer.keep_to_limit(true);
    assert_eq!((reader.held_bytes(), writer.room_bytes(true)), (6 * MIB, 0));
    assert!(memory_bytes(&writer) <= 6 * MIB + 2 * PAGE_BYTES);
    let Chunk::Data { position, bytes } = read(&reader, 14 * MIB, 2 * MIB as usize) else {
        panic!("no data")
    };
    assert!(position == 14 * MIB && bytes == block(position, 2 * MIB));

    reader.hold(None);
    writer.keep_to_limit(true);
    assert_eq!(reader.held_bytes(), 2 * MIB);
    assert!(memory_bytes(&writer) <= 2 * MIB + 2 * PAGE_BYTES);
    assert_eq!(reader.dropped(), 18 * MIB);
}

#[test]
fn a_limit_that_falls_after_the_look_for_room_takes_nothing_that_is_held() {
    let (mut writer, reader) = ring();
    writer.append(&block(0, 1000)).unwrap();
    reader.hold(Some(0));
    assert!(writer.room_bytes(true) >= 65_536);
    reader.set_limit_bytes(MIN_RING_BYTES);
    writer.append(&block(1000, 65_536)).unwrap();
    assert!(matches!(read(&reader, 0, 1), Chunk::Data { position: 0, .. }));
    assert_eq!((reader.dropped(), writer.room_bytes(true)), (0, 0));
}

#[test]
fn a_limit_that_falls_before_fewer_bytes_come_than_there_was_room_for_leaves_the_ring_whole() {
    let (mut writer, reader) = ring();
    let (from, to) = pipe().unwrap();
    rustix::io::write(&to, &[7; 100]).unwrap();
    assert!(writer.room_bytes(false) >= 65_536);
    reader.set_limit_bytes(MIN_RING_BYTES);
    writer.append_from(&from, 65_536).unwrap();
    reader.hold(Some(0));
    assert_eq!(writer.room_bytes(true), MIN_RING_BYTES - 100);
    assert_eq!(reader.held_bytes(), 100);
}

#[test]
fn of_two_readers_at_once_the_further_one_says_what_is_delivered() {
    const LENGTH: u64 = MIB;
    let (mut writer, reader) = ring();
    writer.append(&block(0, LENGTH)).unwrap();
    let begin = Barrier::new(2);
    let deliver = |parity| {
        begin.wait();
        for position in (parity..=LENGTH).step_by(2) {
            reader.set_delivered(position);
            assert!(reader.delivered() >= position);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| deliver(0));
        scope.spawn(|| deliver(1));
    });
    assert_eq!(reader.delivered(), LENGTH);
}

#[test]
fn a_file_that_could_shrink_is_refused() {
    let memfd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memfd, 1 << 20).unwrap();
    assert!(RingReader::new(memfd).is_err());
}

#[test]
fn a_file_that_is_too_small_is_refused() {
    let memfd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, DATA_AT + RING_CAPACITY_BYTES - 1).unwrap();
    fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
    assert!(RingReader::new(memfd).is_err());
}

proptest::proptest! {
    #[test]
    fn any_interleaving_reads_what_was_written(
        steps in proptest::collection::vec((0u64..200_000, 1usize..300_000, 0u64..400_000), 1..60)
    ) {
        let (mut writer, reader) = ring();
        let (mut written, mut position) = (0u64, 0u64);
        let mut buffer = BytesMut::new();
        for (write, limit, ring_limit) in steps {
            // Sometimes none, sometimes less than what is written at once.
            reader.set_limit_bytes(ring_limit.saturating_sub(100_000));
            let write = write.min(writer.room_bytes(true));
            writer.append(&block(written, write)).unwrap();
            written += write;
            if let Chunk::Data { position: start, bytes } =
                reader.read(position, limit, &mut buffer).unwrap()
            {
                proptest::prop_assert!(start >= position);
                let length = bytes.len() as u64;
                proptest::prop_assert!(bytes == block(start, length));
                position = start + length;
            }
        }
    }
}

//! Compression in pieces: every [`PIECE`] bytes of the archive become one gzip member, so that several threads can
//! work on one layer and the bytes do not depend on how many there were. Readers take the members as one stream.

use super::Layer;
use flate2::{Compression, GzBuilder};
use hoistway_kit::parallelism;
use hoistway_model::{Digest, digest::Hasher};
use std::{
    io::{self, Write},
    mem,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// Bytes of archive in one member. Part of the format: another value gives other digests.
const PIECE: usize = 1 << 20;
/// The compressor's level. Part of the format, too. A fifth smaller than level 1, and the threads make up for it.
const LEVEL: u32 = 2;
/// The first capacity of the buffer: most sources are smaller.
const FIRST: usize = 16 << 10;

/// One member. No name, no time, and the operating system "unknown".
fn member(piece: &[u8]) -> io::Result<Vec<u8>> {
    let out = Vec::with_capacity(piece.len() / 3 + 64);
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(out, Compression::new(LEVEL));
    encoder.write_all(piece)?;
    encoder.finish()
}

/// Cuts what is written into pieces.
struct Pieces<F> {
    piece: Vec<u8>,
    archive: Hasher,
    full: F,
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Pieces<F> {
    fn new(full: F) -> Self {
        Self { piece: Vec::with_capacity(FIRST), archive: Hasher::new(), full }
    }

    fn hand_over(&mut self, next: usize) -> io::Result<()> {
        let piece = mem::replace(&mut self.piece, Vec::with_capacity(next));
        self.archive.update(&piece);
        (self.full)(piece)
    }

    /// The archive's digest.
    fn finish(mut self) -> io::Result<Digest> {
        if !self.piece.is_empty() {
            self.hand_over(0)?;
        }
        Ok(self.archive.finish())
    }
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Write for Pieces<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.hand_over(PIECE)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything on this thread.
pub(super) fn serial(produce: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<(Layer, Vec<u8>)> {
    let mut out = Vec::new();
    let mut pieces = Pieces::new(|piece| {
        out.extend_from_slice(&member(&piece)?);
        Ok(())
    });
    produce(&mut pieces)?;
    let diff_id = pieces.finish()?;
    let layer = Layer { digest: Digest::of(&out), diff_id, size: out.len() as u64 };
    Ok((layer, out))
}

/// The archive is made on this thread, compressed on a few others, and written by one more.
pub(super) fn parallel(
    out: &mut (dyn Write + Send),
    produce: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Layer> {
    let workers = parallelism::workers();
    thread::scope(|scope| {
        let mut todo = Vec::with_capacity(workers);
        let mut done = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (todo_in, todo_out) = sync_channel::<Vec<u8>>(1);
            let (done_in, done_out) = sync_channel::<io::Result<Vec<u8>>>(1);
            scope.spawn(move || compress(&todo_out, &done_in));
            todo.push(todo_in);
            done.push(done_out);
        }
        let writer = scope.spawn(move || collect(&done, out));
        let produced = {
            let mut turn = todo.iter().cycle();
            let mut pieces = Pieces::new(|piece| match turn.next() {
                Some(worker) => worker.send(piece).map_err(|_| stopped()),
                None => Err(stopped()),
            });
            produce(&mut pieces).and_then(|()| pieces.finish())
        };
        drop(todo);
        // The writer's error is the cause when both have one.
        let (digest, size) = writer.join().map_err(|_| stopped())??;
        Ok(Layer { digest, diff_id: produced?, size })
    })
}

fn stopped() -> io::Error {
    io::Error::other("a compressing thread stopped early")
}

fn compress(todo: &Receiver<Vec<u8>>, done: &SyncSender<io::Result<Vec<u8>>>) {
    for piece in todo {
        if done.send(member(&piece)).is_err() {
            return;
        }
    }
}

/// Takes the members in the order in which their pieces were dealt out.
fn collect(done: &[Receiver<io::Result<Vec<u8>>>], out: &mut dyn Write) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let mut size = 0;
    for worker in done.iter().cycle() {
        let Ok(member) = worker.recv() else { break };
        let member = member?;
        hasher.update(&member);
        size += member.len() as u64;
        out.write_all(&member)?;
    }
    Ok((hasher.finish(), size))
}

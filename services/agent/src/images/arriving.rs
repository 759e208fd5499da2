//! Layers that the build service of the same process makes, unpacked while it does. Their archives are read as
//! suspiciously as pulled ones, and what comes of it is the same to the bit.

use super::{layers::LayerStore, unpack::unpack_archive};
use hoistway_model::{
    Digest,
    unpacked_layers::{UnpackedLayers, UnpackingLayer},
};
use std::{
    io::{self, ErrorKind, Read, Write},
    mem,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

/// The bytes that are handed to the unpacking thread at a time, and the number of such pieces that wait for it.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

impl UnpackedLayers for LayerStore {
    fn begin(&self) -> io::Result<Box<dyn UnpackingLayer>> {
        let (sender, receiver) = sync_channel(PIECES);
        let store = self.clone();
        let thread = thread::Builder::new().name("unpack".to_owned()).spawn(move || receive(&store, receiver))?;
        Ok(Box::new(Arriving { piece: Vec::new(), unpacking: Some((sender, thread)) }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.free()
    }
}

/// What the unpacking thread gets. Without an end, the layer was given up.
enum Part {
    Piece(Vec<u8>),
    End { digest: Digest, diff_id: Digest },
}

struct Arriving {
    piece: Vec<u8>,
    /// The thread that unpacks, and the way to it; nothing once it has ended.
    unpacking: Option<(SyncSender<Part>, JoinHandle<io::Result<()>>)>,
}

impl Arriving {
    /// Hands a part to the thread. If that has ended, its error is the reason.
    fn send(&mut self, part: Part) -> io::Result<()> {
        if let Some((sender, _)) = &self.unpacking
            && sender.send(part).is_ok()
        {
            return Ok(());
        }
        self.join()?;
        Err(io::Error::new(ErrorKind::BrokenPipe, "the layer cannot be unpacked"))
    }

    /// Ends the thread.
    fn join(&mut self) -> io::Result<()> {
        let Some((sender, thread)) = self.unpacking.take() else { return Ok(()) };
        drop(sender);
        thread.join().map_err(|_| io::Error::other("the unpacking thread ended early"))?
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

impl Write for Arriving {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = mem::take(&mut self.piece);
        self.send(Part::Piece(piece))
    }
}

impl UnpackingLayer for Arriving {
    fn finish(mut self: Box<Self>, digest: Digest, diff_id: Digest) -> io::Result<()> {
        self.flush()?;
        self.send(Part::End { digest, diff_id })?;
        self.join()
    }
}

fn receive(store: &LayerStore, parts: Receiver<Part>) -> io::Result<()> {
    let dir = store.temporary()?;
    let unpacked = unpack(store, parts, &dir);
    if unpacked.is_err() {
        store.discard(&dir);
    }
    unpacked
}

fn unpack(store: &LayerStore, parts: Receiver<Part>, dir: &Path) -> io::Result<()> {
    let mut archive = Archive { parts, piece: Vec::new(), read: 0, end: None };
    let actual = unpack_archive(&mut archive, dir, store.bounds()).map_err(io::Error::other)?;
    let (digest, diff_id) = archive.end.ok_or_else(|| io::Error::other("the layer was given up"))?;
    if actual != diff_id {
        return Err(io::Error::other(format!("the archive is {actual}, and should be {diff_id}")));
    }
    store.adopt(dir, &digest)
}

/// The archive as it arrives.
struct Archive {
    parts: Receiver<Part>,
    piece: Vec<u8>,
    read: usize,
    /// Digests of the blob and of the archive, once it has ended.
    end: Option<(Digest, Digest)>,
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            match self.parts.recv() {
                Ok(Part::Piece(piece)) => (self.piece, self.read) = (piece, 0),
                Ok(Part::End { digest, diff_id }) => self.end = Some((digest, diff_id)),
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len() - self.read);
        buffer[..n].copy_from_slice(&self.piece[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

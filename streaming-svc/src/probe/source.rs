//! Reading a few bytes here and there in a file, with an end to it.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Bytes read at a time: what is wanted lies close together, with films' data between.
const AT_A_TIME: usize = 4096;

/// The most bytes looked at in one file. All headers of a film of ten hours take about 60 MB.
const MOST: u64 = 256 << 20;

/// A file, read at any place. It seems to end where too much was asked of it.
pub(super) struct Source<'a, R> {
    reader: BufReader<R>,
    /// Where the reader is.
    at: u64,
    len: u64,
    /// How many bytes may still be asked for.
    left: u64,
    goes_on: &'a dyn Fn() -> bool,
}

impl<'a, R: Read + Seek> Source<'a, R> {
    /// A file of `len` bytes. `goes_on` is asked all the time, and ends it with `false`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn new(mut file: R, len: u64, goes_on: &'a dyn Fn() -> bool) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        Ok(Self {
            reader: BufReader::with_capacity(AT_A_TIME, file),
            at: 0,
            len,
            left: MOST,
            goes_on,
        })
    }

    /// The file's length.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether it was read less than was wanted, since it was too much or took too long.
    pub(super) fn gave_up(&self) -> bool {
        self.left == 0
    }

    /// Whether so much may be read there, before `end`.
    fn go_to(&mut self, at: u64, len: u64, end: u64) -> io::Result<bool> {
        if at
            .checked_add(len)
            .is_none_or(|past| past > end.min(self.len))
        {
            return Ok(false);
        }
        // A byte costs one, as does going there.
        self.left = self.left.saturating_sub(len + 1);
        if self.left == 0 || !(self.goes_on)() {
            self.left = 0;
            return Ok(false);
        }
        // What is in the buffer already is not read again.
        match i64::try_from(i128::from(at) - i128::from(self.at)) {
            Ok(step) => self.reader.seek_relative(step)?,
            Err(_) => return Ok(false),
        }
        self.at = at;
        Ok(true)
    }

    /// Fills a buffer from a place on. `false` when that reaches beyond `end` or the file's end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn fill(&mut self, at: u64, end: u64, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.go_to(at, buffer.len() as u64, end)? {
            return Ok(false);
        }
        match self.reader.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(true)
            }
            // It became shorter.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                self.at = self.reader.stream_position()?;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// `N` bytes at a place; `None` when they reach beyond `end` or the file's end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn bytes<const N: usize>(
        &mut self,
        at: u64,
        end: u64,
    ) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        Ok(self.fill(at, end, &mut bytes)?.then_some(bytes))
    }

    /// A number of four bytes.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn u32(&mut self, at: u64, end: u64) -> io::Result<Option<u32>> {
        Ok(self.bytes(at, end)?.map(u32::from_be_bytes))
    }

    /// A number of eight bytes.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn u64(&mut self, at: u64, end: u64) -> io::Result<Option<u64>> {
        Ok(self.bytes(at, end)?.map(u64::from_be_bytes))
    }
}

//! One prefix as one file, to be taken to another computer or kept.
//!
//! Little endian: magic `DS4X`, format version (u32), length of the model's name (u32), the name, number of records (u32), then
//! each record: length (u64) and the record as in its file ([`record`](crate::record)): the pages in order, then the snapshot.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use bytes::Bytes;

use crate::error::StoreError;
use crate::maintenance::Entry;
use crate::record::{FORMAT_VERSION, Header, Kind, read};
use crate::save::Save;
use crate::storage::ReadMemory;
use crate::storage::private;
use crate::store::KvStore;

const MAGIC: &[u8; 4] = b"DS4X";
/// Longest name of a model.
const LONGEST_LABEL: u32 = 1 << 12;
/// Pages that are handed to the writer at once.
const BATCH: usize = 64;

impl KvStore {
    /// Writes a prefix to a file that only its owner can read; it contains the prompt. Returns its bytes.
    ///
    /// # Errors
    /// A damaged page, or a file that cannot be written.
    pub fn export(&self, entry: &Entry, path: &Path) -> Result<u64, StoreError> {
        let io = |source| self.files().io("write", path, source);
        let pages = self.pages_of(entry)?;
        let temporary = path.with_extension("part");
        let file = private().create(true).truncate(true).open(&temporary).map_err(io)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let mut write = |bytes: &[u8]| out.write_all(bytes).map(|()| bytes.len() as u64).map_err(io);
        let mut written = write(MAGIC)?;
        written += write(&FORMAT_VERSION.to_le_bytes())?;
        written += write(&(entry.model.len() as u32).to_le_bytes())?;
        written += write(entry.model.as_bytes())?;
        written += write(&(pages.len() as u32 + 1).to_le_bytes())?;
        let records = pages.iter().map(|(key, _)| (*key, Kind::Page)).chain([(entry.key, Kind::Snapshot)]);
        for (key, kind) in records {
            let (header, payload) = self
                .files()
                .read(&key, kind, &mut ReadMemory::default())
                .map_err(|error| StoreError::Bundle { path: self.files().path(&key, kind), why: error.to_string() })?;
            let (head, checksum) = header.frame(&payload);
            written += write(&header.file_len(payload.len()).to_le_bytes())?;
            written += write(&head)? + write(&payload)? + write(&checksum)?;
        }
        let file = out.into_inner().map_err(|error| io(error.into_error()))?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&temporary, path).map_err(io)?;
        Ok(written)
    }

    /// Takes an exported prefix in. Returns its tokens.
    ///
    /// # Errors
    /// A file that is not an intact export; another process is the writer; the prefix does not fit or cannot be written.
    pub fn import(&self, path: &Path) -> Result<u64, StoreError> {
        let io = |source| self.files().io("read", path, source);
        let refuse = |why: &str| StoreError::Bundle { path: path.to_owned(), why: why.to_owned() };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let budget = self.stats().budget;
        if size > budget {
            return Err(StoreError::TooLarge { bytes: size, budget });
        }
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut four = || {
            let mut bytes = [0; 4];
            input.read_exact(&mut bytes).map(|()| bytes).map_err(|_| refuse("it is cut off"))
        };
        if &four()? != MAGIC {
            return Err(refuse("it does not begin like one"));
        }
        let version = u32::from_le_bytes(four()?);
        if version != FORMAT_VERSION {
            return Err(refuse(&format!("it has format version {version}, this program reads {FORMAT_VERSION}")));
        }
        let label_len = u32::from_le_bytes(four()?);
        if label_len > LONGEST_LABEL {
            return Err(refuse("the name of its model is too long"));
        }
        let mut label = vec![0; label_len as usize];
        input.read_exact(&mut label).map_err(|_| refuse("it is cut off"))?;
        let mut count = [0; 4];
        input.read_exact(&mut count).map_err(|_| refuse("it is cut off"))?;
        let label = String::from_utf8_lossy(&label).into_owned();
        self.take_records(&mut input, u32::from_le_bytes(count), size, &label, &refuse)
    }

    fn take_records(
        &self,
        input: &mut dyn Read,
        count: u32,
        size: u64,
        label: &str,
        refuse: &dyn Fn(&str) -> StoreError,
    ) -> Result<u64, StoreError> {
        let mut batch: Vec<(Header, Bytes)> = Vec::new();
        let mut first: Option<Header> = None;
        let mut last: Option<Header> = None;
        for number in 0..count {
            let mut len = [0; 8];
            input.read_exact(&mut len).map_err(|_| refuse("it is cut off"))?;
            let len = u64::from_le_bytes(len);
            if len > size {
                return Err(refuse("it is cut off"));
            }
            let mut bytes = Vec::new();
            input.take(len).read_to_end(&mut bytes).map_err(|_| refuse("it cannot be read"))?;
            let (header, payload) =
                read(&bytes.into()).map_err(|error| refuse(&format!("record {number} is not usable: {error}")))?;
            let first = first.get_or_insert_with(|| header.clone());
            let kind = if number + 1 == count { Kind::Snapshot } else { Kind::Page };
            let (parent, position) = last.as_ref().map_or((header.root, 0), |last| (last.key(), last.end()));
            let is_next = header.kind == kind
                && header.root == first.root
                && header.parent == parent
                && header.position == position
                && match kind {
                    Kind::Page => header.tokens.len() == first.tokens.len() && !header.tokens.is_empty(),
                    Kind::Snapshot => number > 0 && header.tokens.len() < first.tokens.len(),
                };
            if !is_next {
                return Err(refuse(&format!("record {number} does not continue the one before")));
            }
            last = Some(header.clone());
            batch.push((header, payload));
            if batch.len() == BATCH || number + 1 == count {
                self.save_records(std::mem::take(&mut batch), label)?;
            }
        }
        let (Some(first), Some(last)) = (first, last) else { return Err(refuse("it is empty")) };
        // What the writer could not write it has warned of; whether the end is there tells the outcome.
        self.flush();
        let prefixes = self.prefixes_of(first.root, label, first.tokens.len())?;
        match prefixes.has_snapshot(&last.key()) {
            true => Ok(last.end()),
            false => Err(refuse("it could not be written to the KV cache")),
        }
    }

    fn save_records(&self, records: Vec<(Header, Bytes)>, label: &str) -> Result<(), StoreError> {
        let Some((first, _)) = records.first() else { return Ok(()) };
        let page_tokens = match first.kind {
            Kind::Page => first.tokens.len(),
            Kind::Snapshot => self.page_tokens_of(first)?,
        };
        let prefixes = self.prefixes_of(first.root, label, page_tokens)?;
        let mut save = Save {
            first_page: usize::try_from(first.position).unwrap_or(usize::MAX) / page_tokens.max(1),
            parent: first.parent,
            tokens: Vec::new(),
            pages: Vec::new(),
            snapshot: None,
            session: None,
        };
        for (header, payload) in records {
            save.tokens.extend(header.tokens);
            match header.kind {
                Kind::Page => save.pages.push(payload),
                Kind::Snapshot => save.snapshot = Some(payload),
            }
        }
        // Nothing else is queued, so it is taken, however large.
        self.flush();
        prefixes.save(save);
        Ok(())
    }

    /// Tokens of a page in the chain that a snapshot belongs to.
    fn page_tokens_of(&self, snapshot: &Header) -> Result<usize, StoreError> {
        let root = snapshot.root;
        let tokens: i64 = self.on_writer(move |core| {
            let sql = "SELECT page_tokens FROM models WHERE root = ?1";
            core.index().connection.query_row(sql, [root.as_bytes()], |row| row.get(0))
        })?;
        Ok(tokens.max(1) as usize)
    }
}

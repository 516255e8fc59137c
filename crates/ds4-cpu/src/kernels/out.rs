//! Where products are written: columns of a row-major f32 array that several tasks fill together.

use std::marker::PhantomData;
use std::ops::Range;

/// A row-major array `[rows, ld]` f32 that tasks fill by disjoint column ranges.
///
/// Borrowing a rectangle of a slice mutably from several threads is beyond the borrow checker, so the
/// caller of [`SharedOut::columns`] promises that the rectangles do not overlap.
pub struct SharedOut<'a> {
    data: *mut f32,
    rows: usize,
    ld: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow of `[f32]`, which is Send; access from several threads goes
// through `columns`, whose contract excludes two of them writing (or reading) the same element.
unsafe impl Send for SharedOut<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedOut<'_> {}

impl<'a> SharedOut<'a> {
    /// The array `data` as rows of `ld` values; a last incomplete row is left out.
    ///
    /// # Panics
    /// `ld` is 0.
    pub fn new(data: &'a mut [f32], ld: usize) -> SharedOut<'a> {
        assert!(ld > 0, "rows of an output array have at least one column");
        SharedOut { data: data.as_mut_ptr(), rows: data.len() / ld, ld, of: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns `cols` of all rows, for one task.
    ///
    /// # Safety
    /// While the returned value lives, no other `OutCols` of this array may cover any of the same
    /// elements: tasks running at the same time take disjoint `cols`, or write disjoint rows of them
    /// ([`OutCols::row_mut`] touches no other row).
    ///
    /// # Panics
    /// `cols` reaches beyond `ld`.
    pub unsafe fn columns(&self, cols: Range<usize>) -> OutCols<'_> {
        assert!(cols.start <= cols.end && cols.end <= self.ld, "columns {cols:?} of an array with {} columns", self.ld);
        OutCols { data: self.data, rows: self.rows, ld: self.ld, cols, of: PhantomData }
    }
}

/// Some columns of all rows of an output array, owned by one task.
pub struct OutCols<'a> {
    data: *mut f32,
    rows: usize,
    ld: usize,
    cols: Range<usize>,
    of: PhantomData<&'a mut [f32]>,
}

impl<'a> OutCols<'a> {
    /// All columns of `data`, an array `[rows, ld]`.
    ///
    /// # Panics
    /// `ld` is 0.
    pub fn whole(data: &'a mut [f32], ld: usize) -> OutCols<'a> {
        OutCols::of(data, ld, 0..ld)
    }

    /// Columns `cols` of `data`, an array `[rows, ld]`.
    ///
    /// # Panics
    /// `ld` is 0, or `cols` reaches beyond it.
    pub fn of(data: &'a mut [f32], ld: usize, cols: Range<usize>) -> OutCols<'a> {
        assert!(ld > 0 && cols.start <= cols.end && cols.end <= ld, "columns {cols:?} of {ld}");
        OutCols { data: data.as_mut_ptr(), rows: data.len() / ld, ld, cols, of: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns of this part.
    pub fn cols(&self) -> usize {
        self.cols.len()
    }

    /// This part of row `row`.
    ///
    /// # Panics
    /// There is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of an output array with {} rows", self.rows);
        // SAFETY: `row < rows` and `cols.end <= ld`, so the range lies in the borrowed slice; `self` is
        // borrowed mutably, and other `OutCols` are disjoint by the contract of `SharedOut::columns`.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.ld + self.cols.start), self.cols.len()) }
    }
}

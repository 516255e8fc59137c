//! Matrix products of an operation, cut into tasks together.

use std::ops::Range;

use ds4_model::{Compute, Model, Tensor};

use crate::kernels::{Isa, Matrix, QuantizedRows, Rows, SharedOut, matmul_f32, matmul_i8};
use crate::pool::Pool;

/// What the weights are multiplied with: the same activations in both forms. The int8 form may be missing when no
/// product of the operation uses it.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub float: &'a [f32],
    pub int8: Option<&'a QuantizedRows>,
}

/// One product: output rows of `weight` times the rows of `x`.
pub(super) struct Product<'a> {
    pub weight: Matrix<'a>,
    pub x: Operand<'a>,
    pub rows: Rows<'a>,
    pub y: &'a SharedOut<'a>,
    /// Column of `y` that takes the first output.
    pub column: usize,
}

impl Product<'_> {
    /// Number of activation rows.
    fn len(&self) -> usize {
        match self.rows {
            Rows::All => self.x.float.len() / self.weight.cols(),
            Rows::Range { len, .. } => len,
            Rows::Map { input, .. } => input.len(),
        }
    }

    /// What one output takes, in bytes read from memory in the same time: its weights, and a byte per eight multiply-adds.
    fn cost(&self) -> usize {
        self.weight.row_bytes() + self.len() * self.weight.cols() / 8
    }

    /// Outputs that a task takes together: what the kernels compute side by side; fewer where a matrix of few outputs
    /// meets one row, since all threads should read it.
    fn tile(&self) -> usize {
        match (self.weight.ty().is_block_format(), self.len()) {
            (true, _) => 32,
            (false, ..48) => 4,
            (false, _) => 8,
        }
    }
}

/// Matrix `slab` of a tensor, as the kernels take it.
pub(super) fn matrix<'a>(model: &'a Model, tensor: &Tensor, slab: usize) -> Matrix<'a> {
    part(tensor, tensor.rows, model.slab(tensor, slab))
}

/// Rows `rows` of a tensor's only matrix.
pub(super) fn matrix_rows<'a>(model: &'a Model, tensor: &Tensor, rows: Range<usize>) -> Matrix<'a> {
    let bytes = model.slab(tensor, 0);
    let size = bytes.len() / tensor.rows;
    part(tensor, rows.len(), &bytes[rows.start * size..rows.end * size])
}

fn part<'a>(tensor: &Tensor, rows: usize, bytes: &'a [u8]) -> Matrix<'a> {
    Matrix::new(tensor.ty, rows, tensor.cols, bytes).expect("the model was validated when it was bound")
}

/// Rows `0..n` for the tasks of an operation on single rows. Few are divided among the threads in equal parts, always the same ones, and
/// stay in their caches from one operation to the next; many go one by one, so that a thread that was interrupted does not hold up the
/// rest.
pub(super) fn shares(pool: &Pool, n: usize) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
    let threads = pool.threads();
    let parts = if n <= 8 * threads { threads.min(n) } else { n };
    (0..parts).map(move |i| i * n / parts..(i + 1) * n / parts)
}

/// Runs an operation on each of `n` rows, divided as [`shares`] says.
pub(super) fn for_rows(pool: &Pool, n: usize, operation: impl Fn(usize) + Sync) {
    let shares: Vec<Range<usize>> = shares(pool, n).collect();
    pool.run(shares.len(), |task| shares[task].clone().for_each(&operation));
}

/// Whether products with this tensor take int8 activations.
pub(super) fn uses_int8(compute: Compute, tensor: &Tensor) -> bool {
    compute == Compute::Int8 && tensor.ty.is_block_format()
}

/// Multiplies all rows of `x` with each target's tensor; results go to its array, [rows, rows of the tensor].
pub(super) fn run_all(pool: &Pool, isa: Isa, model: &Model, x: Operand<'_>, targets: Vec<(&Tensor, &mut [f32])>) {
    let targets: Vec<(&Tensor, SharedOut)> =
        targets.into_iter().map(|(tensor, y)| (tensor, SharedOut::new(y, tensor.rows))).collect();
    let products: Vec<Product> = targets
        .iter()
        .map(|(tensor, y)| Product { weight: matrix(model, tensor, 0), x, rows: Rows::All, y, column: 0 })
        .collect();
    run(pool, isa, &products);
}

/// Runs all products, sharing the pool's threads among them by the time that each should take.
pub(super) fn run(pool: &Pool, isa: Isa, products: &[Product<'_>]) {
    /// Fewer activation rows than this are not worth reading the weights once more.
    const ROWS: usize = 48;
    /// A matrix that all threads have in their caches: a few rows of activations are divided instead, as the operations on single
    /// rows before and behind it are, so that they stay where they are.
    const SMALL: usize = 128 * 1024;
    /// A piece of less is done sooner than another thread has noticed it.
    const LEAST: usize = 8 * 1024;
    let total: usize = products.iter().map(|p| p.cost() * p.weight.rows()).sum();
    // Several pieces per thread let a thread that was interrupted fall behind without holding up the rest.
    let wanted = pool.threads() * 4;
    let target = (total / wanted).max(LEAST);
    let mut columns: Vec<(usize, Range<usize>)> = Vec::new();
    for (i, product) in products.iter().enumerate() {
        let rows = product.weight.rows();
        let piece = (target / product.cost()).max(1).next_multiple_of(product.tile());
        columns.extend((0..rows).step_by(piece).map(|first| (i, first..(first + piece).min(rows))));
    }
    // Where columns alone do not occupy the threads, as with the few outputs of a hyper-connection, rows are cut too.
    let row_pieces = wanted.div_ceil(columns.len().max(1));
    let mut tasks: Vec<(usize, Range<usize>, Range<usize>)> = Vec::new();
    if let [product] = products
        && product.weight.rows() * product.weight.row_bytes() <= SMALL
        && (2..ROWS).contains(&product.len())
    {
        columns.clear();
        let rows = 0..product.weight.rows();
        tasks.extend(shares(pool, product.len()).map(|part| (0, rows.clone(), part)));
    }
    for (i, columns) in columns {
        let n = products[i].len();
        let piece = n.div_ceil(row_pieces).max(ROWS);
        tasks.extend((0..n).step_by(piece).map(|first| (i, columns.clone(), first..(first + piece).min(n))));
    }
    pool.run(tasks.len(), |task| {
        let (product, columns, part) = &tasks[task];
        let Product { weight, x, rows, y, column } = &products[*product];
        let rows = rows.part(part.clone());
        // SAFETY: tasks of one product have disjoint column ranges or disjoint rows; products that share an array write
        // disjoint rows or disjoint columns of it, which is how the operations build them.
        let mut y = unsafe { y.columns(column + columns.start..column + columns.end) };
        match x.int8 {
            Some(x) if weight.ty().is_block_format() => matmul_i8(isa, weight, columns.clone(), x, rows, &mut y),
            _ => matmul_f32(isa, weight, columns.clone(), x.float, rows, &mut y),
        }
    });
}

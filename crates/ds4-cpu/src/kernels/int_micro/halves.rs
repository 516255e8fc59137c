//! The loop that AVX2 and NEON share: with fewer or narrower registers than AVX-512 they take half a tile, eight weight rows,
//! at a time. The instructions come from the module that expands the macro.

/// Weight rows done together.
pub(super) const HALF: usize = 8;

/// Defines `multiply` (see [`super::Loop::multiply`]) from these items of the surrounding module, compiled for `$features`:
///
/// - `Ints`, `Floats`: eight 32-bit numbers; `Weights`: eight rows of four codes; `Quad`: four codes of up to four rows
/// - `start(i32) -> Ints`, `ints_to_floats(Ints) -> Floats`, `scaled(Floats, f32) -> Floats`
/// - `add_product(Floats, Floats, total) -> Floats`, `subtract_product`: fused
/// - `load(*const f32) -> Floats`, `store(*mut f32, Floats)`
/// - `weights::<SIGNED>(*const u8) -> Weights`, `quad(*const i32) -> Quad`
/// - `dot::<R, SIGNED>(Ints, Weights, Quad) -> Ints`: with row `R` of the quad
/// - `min_sums(*const i32, i32) -> Ints`: eight pairs of factors times one pair of sums
macro_rules! multiply_by_halves {
    ($features:literal) => {
        /// See [`super::Loop::multiply`].
        ///
        /// # Safety
        /// The lengths are those that `super::Loop::multiply` checks.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn multiply(tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
            for (t, tile) in tiles.iter().enumerate() {
                for half in 0..2 {
                    // SAFETY: the caller's promise.
                    unsafe {
                        match x.rows {
                            1 => with_rows::<1>(tile, t, half, x, acc),
                            2 => with_rows::<2>(tile, t, half, x, acc),
                            3 => with_rows::<3>(tile, t, half, x, acc),
                            _ => with_rows::<4>(tile, t, half, x, acc),
                        }
                    }
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn with_rows<const N: usize>(tile: &Tile, t: usize, half: usize, x: Block<'_>, acc: &mut [Sums]) {
            // Codes of seven bits are signed and unsigned at once; those of eight, Q8_0's, get their sign back.
            let full_range = tile.bias == 128;
            // SAFETY: the caller's promise.
            unsafe {
                match (tile.minima().is_some(), full_range) {
                    (false, false) => groups::<N, false, false>(tile, t, half, x, acc),
                    (false, true) => groups::<N, false, true>(tile, t, half, x, acc),
                    (true, _) => groups::<N, true, false>(tile, t, half, x, acc),
                }
            }
        }

        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn groups<const N: usize, const MINIMA: bool, const SIGNED: bool>(
            tile: &Tile,
            t: usize,
            half: usize,
            x: Block<'_>,
            acc: &mut [Sums],
        ) {
            assert!(x.rows == N && acc.len() == N && half < 2);
            let at = half * HALF;
            // Offsets of this half within groups of sixteen rows.
            let codes = tile.codes().as_ptr().cast::<u8>().wrapping_add(at * 4);
            let scales = tile.scales().as_ptr().cast::<f32>().wrapping_add(at);
            let (factors, min_scales) = match tile.minima() {
                Some(m) => (
                    m.factors.as_ptr().cast::<i32>().wrapping_add(at),
                    m.scales.as_ptr().cast::<f32>().wrapping_add(at),
                ),
                None => (std::ptr::null(), std::ptr::null()),
            };
            // SAFETY: group `g` of every array: the block has `WORDS` words per row, the tile
            // `GROUP_CODES` codes and sixteen of each scale (and of each factor pair where MINIMA), of which eight are
            // used from `at`, 0 or 8; `multiply` checked. A quad may be read as four rows whatever `N` is: it is followed
            // by `3 N` more words of its group.
            unsafe {
                let mut total = [start_floats(); N];
                for r in 0..N {
                    total[r] = load(acc[r][t].as_ptr().add(at));
                }
                for g in 0..tile.codes().len() {
                    let x = x.words.as_ptr().add(g * WORDS * N);
                    let mut sum = [start(0); N];
                    if !SIGNED {
                        for r in 0..N {
                            sum[r] = start(*x.add((QUADS + 1) * N + r));
                        }
                    }
                    for q in 0..QUADS {
                        let w = weights::<SIGNED>(codes.add(g * GROUP_CODES + q * 64));
                        let x = quad(x.add(q * N));
                        sum[0] = dot::<0, SIGNED>(sum[0], w, x);
                        if N > 1 {
                            sum[1] = dot::<1, SIGNED>(sum[1], w, x);
                        }
                        if N > 2 {
                            sum[2] = dot::<2, SIGNED>(sum[2], w, x);
                        }
                        if N > 3 {
                            sum[3] = dot::<3, SIGNED>(sum[3], w, x);
                        }
                    }
                    let scale = load(scales.add(g * ROWS));
                    for r in 0..N {
                        let d = *x.add(QUADS * N + r).cast::<f32>();
                        total[r] = add_product(ints_to_floats(sum[r]), scaled(scale, d), total[r]);
                    }
                    if MINIMA {
                        let scale = load(min_scales.add(g * ROWS));
                        for r in 0..N {
                            let d = *x.add(QUADS * N + r).cast::<f32>();
                            let sum = min_sums(factors.add(g * ROWS), *x.add((QUADS + 2) * N + r));
                            total[r] = subtract_product(ints_to_floats(sum), scaled(scale, d), total[r]);
                        }
                    }
                }
                for r in 0..N {
                    store(acc[r][t].as_mut_ptr().add(at), total[r]);
                }
            }
        }
    };
}
pub(super) use multiply_by_halves;

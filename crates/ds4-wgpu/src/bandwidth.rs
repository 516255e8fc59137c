//! How fast a card reads its memory.

use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::recorder::{Recorder, View};
use crate::shader::Kernel;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    each: u32,
}

/// Bytes that a measurement reads at least where there is so much, several times any cache.
const ENOUGH: u64 = 1 << 30;
/// Passes over the memory in a measurement.
const PASSES: u64 = 16;
/// vec4s of a workgroup.
const EACH: u32 = 1 << 14;
/// Measurements, of which the fastest counts: what else the machine does can only slow one down. Fewer on a card so slow that they
/// would take longer than this.
const TRIES: usize = 5;
const LONGEST: Duration = Duration::from_millis(500);

/// Bytes per second of plain reads. `memory`: what the card has already, to be read if it is large enough.
pub(crate) fn measure(gpu: &Gpu, recorder: &mut Recorder, memory: Option<View>) -> Result<f64, WgpuError> {
    let memory = match memory.filter(|view| view.size >= ENOUGH / 4) {
        Some(view) => view,
        None => View::all(gpu.storage("memory to read", (ENOUGH / 4).min(gpu.max_binding))?),
    };
    let bytes_each = u64::from(EACH) * 16;
    let workgroups = (memory.size.min(ENOUGH) / bytes_each).max(1);
    let found = View::all(gpu.storage("what was read", workgroups * u64::from(Kernel::Read.workgroup()) * 4)?);
    let mut fastest = f64::INFINITY;
    let begun = Instant::now();
    for _ in 0..TRIES {
        recorder.submit()?;
        gpu.wait()?;
        let started = Instant::now();
        for _ in 0..PASSES {
            recorder.dispatch(Kernel::Read, &Params { each: EACH }, &[&memory, &found], [workgroups as u32, 1, 1])?;
        }
        recorder.submit()?;
        gpu.wait()?;
        fastest = fastest.min(started.elapsed().as_secs_f64());
        if begun.elapsed() > LONGEST {
            break;
        }
    }
    Ok((PASSES * workgroups * bytes_each) as f64 / fastest)
}

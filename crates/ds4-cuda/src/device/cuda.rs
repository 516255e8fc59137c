//! A CUDA device, through the driver that is found when the program runs.
//!
//! All work goes to one stream, so that everything happens in the order of the calls. Copies from and to the host pass through
//! page-locked buffers.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::image::Images;
use super::{Device, DeviceError, DeviceMemory, Graph, Launch};

/// What is known of a device before it is used.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Number to open it by.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Compute capability.
    pub capability: (u32, u32),
    /// The newest CUDA version that the driver knows: 13000 for 13.0.
    pub driver: i32,
}

/// Oldest compute capability with the matrix instructions that the kernels use.
const OLDEST: (u32, u32) = (8, 0);
/// Bytes of each of the two page-locked buffers.
const PINNED: usize = 16 << 20;
/// Threads that fill one of them.
const COPY_THREADS: usize = 4;

/// Tells an error of the driver in a sentence.
fn failed(what: &str, error: DriverError) -> DeviceError {
    let name = error.error_name().map_or_else(|_| "unknown error".into(), |name| name.to_string_lossy().into_owned());
    DeviceError::new(format!("the GPU failed while {what}: {name}"))
}

/// The CUDA devices of this machine.
///
/// # Errors
/// No driver, or one that does not answer: in a sentence that says which.
pub fn devices() -> Result<Vec<DeviceInfo>, DeviceError> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::new(
            "there is no NVIDIA driver on this machine (libcuda was not found); use --backend cpu",
        ));
    }
    result::init().map_err(|e| failed("starting", e))?;
    let count = result::device::get_count().map_err(|e| failed("listing devices", e))?;
    let mut driver: c_int = 0;
    // SAFETY: the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(|e| failed("asking for its version", e))?;
    (0..count)
        .map(|ordinal| {
            let handle = result::device::get(ordinal).map_err(|e| failed("opening", e))?;
            use sys::CUdevice_attribute::{
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
            };
            // SAFETY: the handle is that of a device.
            let (memory, major, minor) = unsafe {
                (
                    result::device::total_mem(handle).map_err(|e| failed("asking for its memory", e))?,
                    result::device::get_attribute(handle, MAJOR).map_err(|e| failed("asking for its version", e))?,
                    result::device::get_attribute(handle, MINOR).map_err(|e| failed("asking for its version", e))?,
                )
            };
            Ok(DeviceInfo {
                ordinal: ordinal as usize,
                name: result::device::get_name(handle).map_err(|e| failed("asking for its name", e))?,
                memory: memory as u64,
                capability: (major as u32, minor as u32),
                driver,
            })
        })
        .collect()
}

/// A device in use.
pub struct CudaDevice {
    info: DeviceInfo,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: Mutex<HashMap<&'static str, Function>>,
    staging: Mutex<Staging>,
    shared_limit: usize,
    multiprocessors: u32,
    times: Mutex<Option<Times>>,
    #[cfg(feature = "timeline")]
    timeline: Mutex<super::timeline::Recording>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

struct Staging {
    buffers: [*mut u8; 2],
    /// Recorded when the buffer's copy has been given to the stream.
    events: [sys::CUevent; 2],
    next: usize,
}

/// Begin and end of every kernel since timing was switched on.
#[derive(Default)]
struct Times(Vec<(&'static str, sys::CUevent, sys::CUevent)>);

// SAFETY: handles of the driver may be used from any thread that has the context current, which every method sees to; the page-locked
// buffers are behind a lock.
unsafe impl Send for CudaDevice {}
// SAFETY: as above.
unsafe impl Sync for CudaDevice {}

impl CudaDevice {
    /// Opens a device.
    ///
    /// # Errors
    /// No such device, one that is too old, kernels that cannot be had, or a failing driver.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, DeviceError> {
        let all = devices()?;
        let Some(info) = all.get(ordinal).cloned() else {
            return Err(DeviceError::new(format!("there is no CUDA device {ordinal}; this machine has {}", all.len())));
        };
        if info.capability < OLDEST {
            return Err(DeviceError::new(format!(
                "{} has compute capability {}.{}; the kernels need 8.0 (Ampere) or newer",
                info.name, info.capability.0, info.capability.1
            )));
        }
        let handle = result::device::get(ordinal as c_int).map_err(|e| failed("opening", e))?;
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
        };
        // SAFETY: the handle is that of a device; the context is made current before anything is made in it.
        let (context, shared_limit, multiprocessors, stream, staging) = unsafe {
            let context = result::primary_ctx::retain(handle).map_err(|e| failed("making a context", e))?;
            result::ctx::set_current(context).map_err(|e| failed("entering its context", e))?;
            let shared =
                result::device::get_attribute(handle, SHARED).map_err(|e| failed("asking for its memory", e))?;
            let multiprocessors =
                result::device::get_attribute(handle, MULTIPROCESSORS).map_err(|e| failed("asking for its size", e))?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
                .map_err(|e| failed("making a stream", e))?;
            (context, shared as usize, multiprocessors as u32, stream, Staging::new()?)
        };
        let images = Images::for_device(info.capability)?;
        let load = |image: &Vec<u8>| {
            // SAFETY: the image is a whole fat binary, cubin or zero-terminated PTX.
            unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|e| failed("loading kernels", e))
        };
        let modules = images.all().iter().map(load).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            info,
            handle,
            context,
            stream,
            modules,
            functions: Mutex::default(),
            staging: Mutex::new(staging),
            shared_limit,
            multiprocessors,
            times: Mutex::new(None),
            #[cfg(feature = "timeline")]
            timeline: Mutex::default(),
        }))
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// From here on every kernel is timed; for measurements, as it slows everything down.
    pub fn start_timing(&self) {
        *lock(&self.times) = Some(Times::default());
    }

    /// Count and milliseconds of every kernel since [`start_timing`](Self::start_timing), which ends; longest first.
    ///
    /// # Errors
    /// A failing device.
    pub fn finish_timing(&self) -> Result<Vec<(&'static str, usize, f64)>, DeviceError> {
        self.synchronize()?;
        let Some(times) = lock(&self.times).take() else { return Ok(Vec::new()) };
        let mut sums: HashMap<&'static str, (usize, f64)> = HashMap::new();
        for (kernel, begin, end) in times.0 {
            // SAFETY: both events were recorded and have happened; they are used for the last time.
            let ms = unsafe {
                let ms = result::event::elapsed(begin, end).map_err(|e| failed("timing", e))?;
                let _ = (result::event::destroy(begin), result::event::destroy(end));
                ms
            };
            let sum = sums.entry(kernel).or_default();
            *sum = (sum.0 + 1, sum.1 + f64::from(ms));
        }
        let mut list: Vec<_> = sums.into_iter().map(|(kernel, (count, ms))| (kernel, count, ms)).collect();
        list.sort_by(|a, b| b.2.total_cmp(&a.2));
        Ok(list)
    }

    /// What the launches of the last recorded graph noted when it last ran, in their order.
    ///
    /// # Errors
    /// A failing device.
    #[cfg(feature = "timeline")]
    pub fn timeline(&self) -> Result<Vec<super::timeline::Noted>, DeviceError> {
        let recording = lock(&self.timeline);
        let mut words = vec![0u64; recording.words()];
        if !words.is_empty() {
            self.read(recording.memory, bytemuck::cast_slice_mut(&mut words))?;
        }
        Ok(recording.noted(&words))
    }

    #[cfg(feature = "timeline")]
    fn begin_timeline(&self) -> Result<(), DeviceError> {
        let mut recording = lock(&self.timeline);
        if recording.memory == 0 {
            recording.memory = self.allocate(super::timeline::BYTES)?;
            self.fill(recording.memory, 0, super::timeline::BYTES)?;
        }
        recording.begin();
        Ok(())
    }

    fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("entering its context", e))
    }

    fn function(&self, name: &'static str) -> Result<Function, DeviceError> {
        let mut known = lock(&self.functions);
        if let Some(function) = known.get(name) {
            return Ok(*function);
        }
        let c_name = CString::new(name).map_err(|_| DeviceError::new("a kernel name with a zero byte"))?;
        let find = |&module: &sys::CUmodule| {
            // SAFETY: modules live as long as `self`.
            unsafe { result::module::get_function(module, c_name.clone()) }.ok()
        };
        let found = self.modules.iter().find_map(find);
        let Some(function) = found else { return Err(DeviceError::new(format!("there is no kernel {name}"))) };
        // SAFETY: the function was just found.
        let fixed = unsafe {
            use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as FIXED;
            let mut fixed: c_int = 0;
            sys::cuFuncGetAttribute(&mut fixed, FIXED, function)
                .result()
                .map_err(|e| failed("asking about a kernel", e))?;
            fixed as usize
        };
        let dynamic = self.shared_limit.saturating_sub(fixed) as c_int;
        // SAFETY: as above. Kernels without dynamic shared memory do not mind.
        unsafe {
            use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC;
            sys::cuFuncSetAttribute(function, DYNAMIC, dynamic)
                .result()
                .map_err(|e| failed("preparing a kernel", e))?;
        }
        known.insert(name, Function(function));
        Ok(Function(function))
    }
}

impl Staging {
    /// # Safety
    /// A context is current.
    unsafe fn new() -> Result<Self, DeviceError> {
        let mut staging = Self { buffers: [std::ptr::null_mut(); 2], events: [std::ptr::null_mut(); 2], next: 0 };
        for i in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                staging.buffers[i] =
                    result::malloc_host(PINNED, 0).map_err(|e| failed("taking page-locked memory", e))?.cast();
                staging.events[i] = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
                    .map_err(|e| failed("making an event", e))?;
            }
        }
        Ok(staging)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pointer that threads may share: each touches its own part.
#[derive(Clone, Copy)]
struct Shared(*mut u8);
// SAFETY: see its use.
unsafe impl Send for Shared {}

/// Copies with several threads: one alone is slower than the bus.
///
/// # Safety
/// `to` has room for `from`.
unsafe fn copy_parallel(from: &[u8], to: *mut u8) {
    if from.len() < 1 << 20 {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        return;
    }
    let part = from.len().div_ceil(COPY_THREADS);
    std::thread::scope(|scope| {
        for (i, chunk) in from.chunks(part).enumerate() {
            // SAFETY: parts do not overlap and lie inside what the caller promised.
            let to = Shared(unsafe { to.add(i * part) });
            scope.spawn(move || {
                let to = to;
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(chunk.as_ptr(), to.0, chunk.len()) };
            });
        }
    });
}

impl Device for CudaDevice {
    fn name(&self) -> String {
        self.info.name.clone()
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.enter()?;
        let (free, total) = result::mem_get_info().map_err(|e| failed("asking for its memory", e))?;
        Ok(DeviceMemory { free: free as u64, total: total as u64 })
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn shared_memory_limit(&self) -> usize {
        self.shared_limit
    }

    fn has_warpgroups(&self) -> bool {
        self.info.capability == (9, 0)
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.enter()?;
        // SAFETY: a plain allocation.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(address),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(DeviceError::OutOfMemory { asked: bytes as u64, free: self.memory()?.free })
            }
            Err(error) => Err(failed("taking memory", error)),
        }
    }

    fn free(&self, address: u64, _bytes: usize) {
        if self.enter().is_ok() {
            // SAFETY: the address came from `allocate`. The driver waits for work that is under way.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.enter()?;
        let mut staging = lock(&self.staging);
        for (i, part) in bytes.chunks(PINNED).enumerate() {
            let which = staging.next;
            staging.next = 1 - which;
            // SAFETY: the buffer is free once its last copy has happened, and the part fits into it; the destination is the
            // caller's memory.
            unsafe {
                result::event::synchronize(staging.events[which]).map_err(|e| failed("copying to it", e))?;
                copy_parallel(part, staging.buffers[which]);
                let pinned = std::slice::from_raw_parts(staging.buffers[which], part.len());
                result::memcpy_htod_async(to + (i * PINNED) as u64, pinned, self.stream)
                    .map_err(|e| failed("copying to it", e))?;
                result::event::record(staging.events[which], self.stream).map_err(|e| failed("copying to it", e))?;
            }
        }
        Ok(())
    }

    fn read(&self, from: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        self.enter()?;
        let mut staging = lock(&self.staging);
        for (i, part) in out.chunks_mut(PINNED).enumerate() {
            let which = staging.next;
            staging.next = 1 - which;
            // SAFETY: as in `write`; the stream is waited for before the buffer is read.
            unsafe {
                result::event::synchronize(staging.events[which]).map_err(|e| failed("copying from it", e))?;
                let pinned = std::slice::from_raw_parts_mut(staging.buffers[which], part.len());
                result::memcpy_dtoh_async(pinned, from + (i * PINNED) as u64, self.stream)
                    .map_err(|e| failed("copying from it", e))?;
                result::stream::synchronize(self.stream).map_err(|e| failed("working", e))?;
                part.copy_from_slice(pinned);
            }
        }
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: both ranges are the caller's memory.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(|e| failed("copying", e))
    }

    fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: the range is the caller's memory.
        unsafe { result::memset_d8_async(at, byte, bytes, self.stream) }.map_err(|e| failed("clearing memory", e))
    }

    unsafe fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), DeviceError> {
        self.enter()?;
        let function = self.function(launch.kernel)?;
        #[cfg(not(feature = "timeline"))]
        let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>()];
        #[cfg(feature = "timeline")]
        let mut place = lock(&self.timeline).next(launch);
        #[cfg(feature = "timeline")]
        let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>(), (&raw mut place).cast()];
        let [x, y, z] = launch.grid;
        let mut times = lock(&self.times);
        let mut mark = || -> Result<sys::CUevent, DriverError> {
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
            // SAFETY: event and stream are live.
            unsafe { result::event::record(event, self.stream)? };
            Ok(event)
        };
        let begin = times.is_some().then(&mut mark).transpose().map_err(|e| failed("timing", e))?;
        // A kernel may start before the one ahead has ended; it waits for that itself (`wait_for_inputs`).
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let overlaps = self.info.capability >= (9, 0) && times.is_none();
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared,
            hStream: self.stream,
            attrs: &mut overlap,
            numAttrs: u32::from(overlaps),
        };
        // SAFETY: the caller's promise; configuration and parameters are copied before the call returns.
        unsafe { sys::cuLaunchKernelEx(&config, function.0, arguments.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(|e| failed(&format!("starting {}", launch.kernel), e))?;
        if let (Some(times), Some(begin)) = (times.as_mut(), begin) {
            let end = mark().map_err(|e| failed("timing", e))?;
            times.0.push((launch.kernel, begin, end));
        }
        Ok(())
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        self.enter()?;
        #[cfg(feature = "timeline")]
        self.begin_timeline()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is live.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(|e| failed("recording", e))
    }

    fn end_capture(&self) -> Result<Graph, DeviceError> {
        self.enter()?;
        #[cfg(feature = "timeline")]
        lock(&self.timeline).end();
        // SAFETY: the stream is live; the graph is destroyed once, after it was made executable.
        unsafe {
            let graph = result::stream::end_capture(self.stream).map_err(|e| failed("recording", e))?;
            let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            Ok(Graph(exec.map_err(|e| failed("preparing a graph", e))? as u64))
        }
    }

    fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: the graph came from `end_capture` and was not dropped.
        unsafe { result::graph::launch(graph.0 as sys::CUgraphExec, self.stream) }
            .map_err(|e| failed("starting a graph", e))
    }

    fn drop_graph(&self, graph: Graph) {
        if self.enter().is_ok() {
            // SAFETY: as above; this is its last use.
            let _ = unsafe { result::graph::exec_destroy(graph.0 as sys::CUgraphExec) };
        }
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: the stream is live.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("working", e))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        let staging = lock(&self.staging);
        // SAFETY: everything was made by this device and is used for the last time, after all work is done.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            for i in 0..2 {
                let _ = result::event::destroy(staging.events[i]);
                let _ = result::free_host(staging.buffers[i].cast());
            }
            for &module in &self.modules {
                let _ = result::module::unload(module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.handle);
        }
    }
}

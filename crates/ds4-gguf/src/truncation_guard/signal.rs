//! The SIGBUS handler. Everything it calls is async-signal-safe: atomics, `fstat`, `write`,
//! `_exit` and `sigaction`; it formats numbers itself because `format!` may allocate.

use std::io;
use std::mem;
use std::ptr;
use std::sync::OnceLock;

use super::registry::{self, Found, NAME_BYTES};

/// The action that was in force before [`install`]; foreign faults go there.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Sets the handler for this process; later calls change nothing.
///
/// Call it once, early in `main`, in programs that read models from disk. Files that were opened
/// before are covered too.
///
/// # Errors
/// The system's reason if it refuses the handler.
pub fn install() -> io::Result<()> {
    static INSTALLED: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut installed = match INSTALLED.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    };
    if *installed {
        return Ok(());
    }
    // SAFETY: an all-zero `sigaction` is valid (default action, empty mask, no flags), both pointers
    // lead to live values, and a null new action only queries. The previous action is stored before
    // the handler that reads it can run. The handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut previous: libc::sigaction = mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) != 0 {
            return Err(io::Error::last_os_error());
        }
        PREVIOUS.get_or_init(|| previous);
        let mut action: libc::sigaction = mem::zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        action.sa_sigaction = handler as usize;
        // ONSTACK: a thread with a small stack still gets its message.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    *installed = true;
    Ok(())
}

extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() }.addr();
    // On Linux a SIGBUS that was sent (`kill -BUS`) has a code <= 0, and the sender's ids stand where
    // a fault has its address. Elsewhere the code is less telling, and a sent signal has no address.
    // SAFETY: as above.
    let is_fault = cfg!(not(target_os = "linux")) || unsafe { (*info).si_code } > 0;
    match registry::find(address) {
        Some(found) if is_fault => report_and_exit(&found),
        _ => forward(signal, info, context),
    }
}

/// Gives a foreign fault to whoever was responsible before.
fn forward(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get();
    let handler = previous.map_or(libc::SIG_DFL, |action| action.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: a zeroed action is the default one. After returning, the faulting instruction
        // runs again and ends the process as if this handler had never been here; a signal that
        // was sent has to be sent again for that. (A fault cannot be ignored: it would repeat for
        // ever.)
        unsafe {
            let default: libc::sigaction = mem::zeroed();
            libc::sigaction(signal, &default, ptr::null_mut());
            if (*info).si_code <= 0 && handler == libc::SIG_DFL {
                libc::raise(signal);
            }
        }
        return;
    }
    let with_info = previous.is_some_and(|action| action.sa_flags & libc::SA_SIGINFO != 0);
    // SAFETY: the address is neither SIG_DFL nor SIG_IGN, so it is the function that was installed
    // before, and SA_SIGINFO tells which of the two signatures it has.
    unsafe {
        if with_info {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            mem::transmute::<usize, Handler>(handler)(signal, info, context);
        } else {
            mem::transmute::<usize, extern "C" fn(i32)>(handler)(signal);
        }
    }
}

fn report_and_exit(found: &Found) -> ! {
    let now = length_of(found.fd);
    let mut text = Text::new();
    text.push(b"ds4: ");
    if found.name_len == NAME_BYTES {
        text.push("…".as_bytes());
    }
    text.push(&found.name[..found.name_len]);
    match now {
        // The file still has that byte: the disk or the network could not deliver it.
        Some(now) if now > found.offset as u64 => {
            text.push(b": the file could not be read at byte ");
            text.push_number(found.offset as u64);
            text.push(b" (input/output error). Check the disk, then start again.\n");
        }
        _ => {
            text.push(b": the file became shorter while it was in use (read at byte ");
            text.push_number(found.offset as u64);
            text.push(b", it had ");
            text.push_number(found.len as u64);
            text.push(b" bytes when it was opened");
            if let Some(now) = now {
                text.push(b" and has ");
                text.push_number(now);
                text.push(b" now");
            }
            text.push(b"). Start again with a complete file.\n");
        }
    }
    let message = text.bytes();
    // SAFETY: `write` reads `message.len()` bytes of a live buffer; `_exit` runs no destructors,
    // which is the point: no lock that this thread may hold is touched.
    unsafe {
        libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
        libc::_exit(1)
    }
}

/// Present length of an open file.
fn length_of(fd: i32) -> Option<u64> {
    // SAFETY: `fstat` fills the live structure or fails; an all-zero `stat` is a valid value.
    let stat = unsafe {
        let mut stat: libc::stat = mem::zeroed();
        (libc::fstat(fd, &mut stat) == 0).then_some(stat)?
    };
    u64::try_from(stat.st_size).ok()
}

/// A message under construction, on the stack.
struct Text {
    buffer: [u8; NAME_BYTES + 256],
    len: usize,
}

impl Text {
    fn new() -> Text {
        Text { buffer: [0; NAME_BYTES + 256], len: 0 }
    }

    /// Appends what fits. File names may hold control characters; those become `?`, except for the
    /// newline that ends this module's own sentences.
    fn push(&mut self, bytes: &[u8]) {
        for (&from, to) in bytes.iter().zip(&mut self.buffer[self.len..]) {
            *to = match from {
                0..=9 | 11..=31 | 127 => b'?',
                other => other,
            };
            self.len += 1;
        }
    }

    fn push_number(&mut self, mut n: u64) {
        let mut digits = [0u8; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn numbers_are_decimal() {
        for n in [0, 7, 10, 1234567890, u64::MAX] {
            let mut text = Text::new();
            text.push_number(n);
            assert_eq!(text.bytes(), n.to_string().as_bytes());
        }
    }

    #[test]
    fn long_texts_are_cut_and_control_characters_replaced() {
        let mut text = Text::new();
        text.push(b"a\x1b[31mb");
        assert_eq!(text.bytes(), b"a?[31mb");
        text.push(&[b'x'; 2000]);
        assert_eq!(text.bytes().len(), text.buffer.len());
    }
}

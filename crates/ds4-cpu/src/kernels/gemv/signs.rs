//! The signs of IQ2_XXS as factors.

/// The signs of an octet for every sign code, as bytes 1 and -1.
pub(super) static SIGNS: [u64; 128] = sign_factors();

const fn sign_factors() -> [u64; 128] {
    let mut factors = [0; 128];
    let mut code = 0;
    while code < 128 {
        let signs = ds4_gguf::quant::iq2_xxs::signs(code as u8);
        let mut bytes = [1; 8];
        let mut k = 0;
        while k < 8 {
            if signs >> k & 1 == 1 {
                bytes[k] = -1i8 as u8;
            }
            k += 1;
        }
        factors[code] = u64::from_le_bytes(bytes);
        code += 1;
    }
    factors
}

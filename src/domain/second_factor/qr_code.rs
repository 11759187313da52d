//! Encodes a text as a QR code (ISO/IEC 18004) in a PNG image.

use png::{BitDepth, ColorType, Encoder};
use qrcodegen::{QrCode, QrCodeEcc};
use zeroize::Zeroizing;

/// Pixels along the side of a module, a dark or light square of the QR code.
const MODULE: usize = 8;
/// Light modules around the code, which readers require (ISO/IEC 18004 §6.3.8).
const QUIET_ZONE: i32 = 4;

/// Returns the image, with one bit of grey per pixel; `None` if the text is too long for a QR code.
pub(super) fn png(text: &str) -> Option<Vec<u8>> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let modules = -QUIET_ZONE..code.size() + QUIET_ZONE;
    let side = u32::try_from(modules.len() * MODULE).ok()?;
    let mut pixels = Zeroizing::new(Vec::new());
    for y in modules.clone() {
        // A module is as wide as a byte has pixels; a set bit is a light pixel.
        let row = modules
            .clone()
            .map(|x| if code.get_module(x, y) { 0x00 } else { 0xff });
        let row: Vec<u8> = row.collect();
        pixels.extend(row.repeat(MODULE));
    }
    let mut image = Vec::new();
    let mut encoder = Encoder::new(&mut image, side, side);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    encoder.write_header().ok()?.write_image_data(&pixels).ok()?;
    Some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_shows_each_module_as_a_square_within_a_quiet_zone() {
        let code = QrCode::encode_text("otpauth://totp/a", QrCodeEcc::Medium).expect("short");
        let image = png("otpauth://totp/a").expect("short");
        let decoder = png::Decoder::new(std::io::Cursor::new(image));
        let mut reader = decoder.read_info().expect("an image");
        let mut row = vec![0; reader.output_buffer_size().expect("it fits")];
        let frame = reader.next_frame(&mut row).expect("a frame");
        let side = usize::try_from(code.size() + 2 * QUIET_ZONE).expect("small");
        assert_eq!(
            (frame.width, frame.height),
            (frame.height, u32::try_from(side * MODULE).expect("small"))
        );
        for y in 0..side * MODULE {
            for x in 0..side {
                let at = |n: usize| i32::try_from(n).expect("small") - QUIET_ZONE;
                let dark = code.get_module(at(x), at(y / MODULE));
                assert_eq!(
                    row[y * frame.line_size + x],
                    if dark { 0x00 } else { 0xff },
                    "{x} {y}"
                );
            }
        }
    }

    #[test]
    fn a_text_that_is_too_long_makes_no_image() {
        assert_eq!(png(&"a".repeat(3000)), None);
    }
}

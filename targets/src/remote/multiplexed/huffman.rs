//! Decoding the Huffman code of RFC 7541 (appendix B), from its lengths: the code is canonical.

use super::hpack::Malformed;

/// Bits of the code of each byte, and of the end of the string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const LENGTH_MAX: usize = 30;
const END: u16 = 256;

/// The code by length: how many codes have it, the first of them, and where their symbols begin.
struct Code {
    count: [u32; LENGTH_MAX + 1],
    first: [u32; LENGTH_MAX + 1],
    start: [usize; LENGTH_MAX + 1],
    symbols: [u16; 257],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let (mut count, mut first) = ([0; LENGTH_MAX + 1], [0; LENGTH_MAX + 1]);
        let (mut start, mut symbols) = ([0; LENGTH_MAX + 1], [0; 257]);
        let (mut length, mut code, mut at) = (1, 0, 0);
        while length <= LENGTH_MAX {
            code <<= 1;
            (first[length], start[length]) = (code, at);
            let mut symbol = 0;
            while symbol <= END {
                if LENGTHS[symbol as usize] as usize == length {
                    symbols[at] = symbol;
                    at += 1;
                    code += 1;
                    count[length] += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        Self { count, first, start, symbols }
    }
}

/// Appends what a string stands for.
pub(super) fn decode(string: &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
    let (mut code, mut length) = (0_u32, 0);
    for byte in string {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if length > LENGTH_MAX {
                return Err(Malformed);
            }
            let nth = code.wrapping_sub(CODE.first[length]);
            if nth >= CODE.count[length] {
                continue;
            }
            let symbol = CODE.symbols[CODE.start[length] + nth as usize];
            // The end of the string is never written out.
            text.push(u8::try_from(symbol).map_err(|_| Malformed)?);
            (code, length) = (0, 0);
        }
    }
    // What is left of the last byte begins the end of the string: ones, and less than a byte of them.
    if length < 8 && code == (1 << length) - 1 { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in text {
            let symbol =
                CODE.symbols.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let code = CODE.first[length] + u32::try_from(symbol - CODE.start[length]).unwrap();
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push(true);
        }
        bits.chunks(8)
            .map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit)))
            .collect()
    }

    fn decoded(string: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut text = Vec::new();
        decode(string, &mut text).map(|()| text)
    }

    /// RFC 7541 sections C.4 and C.6.
    #[test]
    fn the_rfcs_strings() {
        for (text, string) in [
            ("www.example.com", &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..]),
            ("no-cache", b"\xa8\xeb\x10\x64\x9c\xbf"),
            ("custom-key", b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f"),
            ("custom-value", b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf"),
            ("302", b"\x64\x02"),
            ("private", b"\xae\xc3\x77\x1a\x4b"),
            (
                "https://www.example.com",
                b"\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3",
            ),
        ] {
            assert_eq!(decoded(string).as_deref(), Ok(text.as_bytes()));
            assert_eq!(encode(text.as_bytes()), string);
        }
    }

    #[test]
    fn padding_is_the_beginning_of_the_end_and_shorter_than_a_byte() {
        for bad in [
            &b"\xff"[..],
            b"\xff\xff\xff\xff",
            b"\x00",
            b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xfe",
        ] {
            assert_eq!(decoded(bad), Err(Malformed), "{bad:x?}");
        }
        assert_eq!(decoded(b"\x07").as_deref(), Ok(&b"0"[..]));
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decoded(&encode(&text)), Ok(text));
        }

        #[test]
        fn what_decodes_encodes_to_the_same(string in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(text) = decoded(&string) {
                prop_assert_eq!(encode(&text), string);
            }
        }
    }
}

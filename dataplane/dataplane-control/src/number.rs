//! IP protocol numbers in documents: who writes a name is told the number.

use std::fmt;

use serde::{
    Deserializer,
    de::{Error, Unexpected, Visitor},
};

struct Number;

impl Visitor<'_> for Number {
    type Value = Option<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an IP protocol number: 1 is ICMP, 6 TCP, 17 UDP, 58 ICMPv6, 132 SCTP")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        let known = u8::try_from(number).map(Some);
        known.map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    /// TOML's integers all are signed.
    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        let known = u8::try_from(number).map(Some);
        known.map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A number that may be left out.
pub(crate) fn or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u8>, D::Error> {
    from.deserialize_any(Number)
}

/// A number.
pub(crate) fn protocol<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    or_none(from)?.ok_or_else(|| D::Error::invalid_type(Unexpected::Unit, &Number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::de::value::{Error, I64Deserializer, U64Deserializer, UnitDeserializer};

    use super::*;

    #[test]
    fn formats_have_integers_of_their_own() {
        // TOML's are signed, JSON's and YAML's are not.
        assert_eq!(protocol(I64Deserializer::<Error>::new(6)), Ok(6));
        assert_eq!(protocol(U64Deserializer::<Error>::new(6)), Ok(6));
        assert_eq!(or_none(UnitDeserializer::<Error>::new()), Ok(None));
        for wrong in [-1, 256] {
            let told = protocol(I64Deserializer::<Error>::new(wrong)).unwrap_err().to_string();
            assert!(told.contains(&wrong.to_string()) && told.contains("17 UDP"), "{told}");
        }
        assert!(protocol(UnitDeserializer::<Error>::new()).is_err());
    }
}

//! Exact amounts of money, in a currency of the operator's choice.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, ops::Add, str::FromStr};

/// The number of smallest units in one.
const UNITS: u128 = 1_000_000_000_000;
/// The number of decimal places of the smallest unit.
const PLACES: usize = 12;
/// The most decimal places in input.
const GIVEN_PLACES: usize = 6;
/// The most digits before the point in input.
const GIVEN_DIGITS: usize = 9;

/// An amount of money, never negative, in millionths of a millionth: the price of one token where a million of them
/// cost one millionth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Money(u128);

/// The price of a million tokens of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPrice {
    /// In a request.
    pub input: Money,
    /// In a request, from a cache of the provider.
    pub cached_input: Money,
    /// In a response.
    pub output: Money,
}

/// Prices by the identifier of the model.
pub type ModelPrices = BTreeMap<String, ModelPrice>;

impl ModelPrice {
    /// Returns the cost of these tokens; cached ones are part of the input.
    pub fn of(&self, input: u64, cached_input: u64, output: u64) -> Money {
        let fresh = self.input.of_tokens(input.saturating_sub(cached_input));
        fresh + self.cached_input.of_tokens(cached_input) + self.output.of_tokens(output)
    }
}

impl Money {
    /// Creates an amount of the smallest unit.
    pub const fn from_units(units: u128) -> Self {
        Self(units)
    }

    /// Returns the amount in the smallest unit.
    pub const fn units(self) -> u128 {
        self.0
    }

    /// Returns the parts before and after the point, the latter in the smallest unit.
    pub fn parts(self) -> (i64, i64) {
        let part = |part: u128| i64::try_from(part).unwrap_or(i64::MAX);
        (part(self.0 / UNITS), part(self.0 % UNITS))
    }

    /// Creates an amount from such parts, whose second one may exceed a whole one.
    pub fn from_parts(whole: i64, rest: i64) -> Self {
        Self(u128::from(whole.unsigned_abs()) * UNITS + u128::from(rest.unsigned_abs()))
    }

    /// Returns the cost of `tokens` if a million of them cost this.
    pub const fn of_tokens(self, tokens: u64) -> Self {
        Self((self.0 / 1_000_000).saturating_mul(tokens as u128))
    }

    /// Parses an amount: at most six decimal places, and nine digits before them.
    pub fn parse(field: &str, text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::field(field, "must be an amount such as 2.5, with at most 9 digits before the point and 6 after it")
        };
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        match whole.len() <= GIVEN_DIGITS && rest.len() <= GIVEN_PLACES {
            true => text.parse().map_err(|()| wrong()),
            false => Err(wrong()),
        }
    }
}

impl From<Money> for String {
    fn from(money: Money) -> Self {
        money.to_string()
    }
}

impl TryFrom<String> for Money {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map_err(|()| "is not an amount")
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl FromStr for Money {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(rest) || rest.len() > PLACES {
            return Err(());
        }
        let whole: u64 = whole.parse().map_err(drop)?;
        let rest: u128 = format!("{rest:0<PLACES$}").parse().map_err(drop)?;
        Ok(Self(u128::from(whole) * UNITS + rest))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / UNITS, self.0 % UNITS);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let rest = format!("{rest:0PLACES$}");
        write!(f, "{whole}.{}", rest.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn amounts_read_and_show_exactly() {
        for (text, shown) in [("2.5", "2.5"), ("0.000001", "0.000001"), ("10", "10"), ("007.50", "7.5"), ("0", "0")] {
            assert_eq!(Money::parse("price", text).unwrap().to_string(), shown);
        }
        for text in ["", "-1", ".5", "1.", "1e3", "0.0000001", "1234567890", "1,5", " 1", "１"] {
            assert!(Money::parse("price", text).is_err(), "{text}");
        }
        let small: Money = "0.000000000001".parse().unwrap();
        assert_eq!((small.units(), small.to_string().as_str()), (1, "0.000000000001"));
        assert_eq!(Money::from_parts(3, 1_500_000_000_000).to_string(), "4.5");
        assert_eq!(Money::from_parts(1, 5).parts(), (1, 5));
    }

    #[test]
    fn tokens_from_a_cache_have_a_price_of_their_own() {
        let amount = |text| Money::parse("price", text).unwrap();
        let price = ModelPrice { input: amount("2.5"), cached_input: amount("1.25"), output: amount("10") };
        assert_eq!(price.of(1_000_000, 400_000, 50_000).to_string(), "2.5");
    }

    #[test]
    fn one_token_of_a_millionth_for_a_million_is_not_lost() {
        let price = Money::parse("price", "0.000001").unwrap();
        assert_eq!(price.of_tokens(1).units(), 1);
        assert_eq!(Money::parse("price", "0.15").unwrap().of_tokens(3).to_string(), "0.00000045");
    }
}

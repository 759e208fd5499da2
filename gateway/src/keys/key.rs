//! Stored keys, and their scopes.

use hoistway_model::error::excerpt;
use std::str::FromStr;

/// The permitted use of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All reads.
    Read,
    /// Every change, and what `Read` allows.
    Deploy,
    /// Invokes.
    Invoke,
    /// Keys, the audit log, and what all others allow.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Read, Self::Deploy, Self::Invoke, Self::Admin];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Invoke => "invoke",
            Self::Admin => "admin",
        }
    }

    /// Whether this scope includes `needed`.
    const fn implies(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Admin, _) | (Self::Deploy, Self::Read | Self::Deploy) => true,
            (Self::Read, Self::Read) | (Self::Invoke, Self::Invoke) => true,
            (Self::Deploy | Self::Read | Self::Invoke, _) => false,
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.trim().to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == wanted)
            .ok_or_else(|| format!("\"{}\" is not one of read, deploy, invoke, admin", excerpt(text)))
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes([bool; 4]);

impl Scopes {
    /// Returns the scopes of the installation's key.
    pub const fn admin() -> Self {
        Self([false, false, false, true])
    }

    /// Whether `needed` is allowed.
    pub fn allow(self, needed: Scope) -> bool {
        self.iter().any(|scope| scope.implies(needed))
    }

    /// Returns the members.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().zip(self.0).filter_map(|(scope, there)| there.then_some(scope))
    }

    /// Whether nothing is allowed.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        let given: Vec<_> = scopes.into_iter().collect();
        Self(Scope::ALL.map(|scope| given.contains(&scope)))
    }
}

/// A stored key: everything but the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its id; `installation` for the one in the file.
    pub id: String,
    /// The name that its creator gave it.
    pub name: String,
    /// Its first characters.
    pub prefix: String,
    /// Its scopes.
    pub scopes: Scopes,
    /// Milliseconds since the epoch; absent for the one in the file.
    pub created_at: Option<i64>,
    /// The id of the key that made it.
    pub created_by: Option<String>,
    /// Milliseconds since the epoch.
    pub expires_at: Option<i64>,
    /// Milliseconds since the epoch.
    pub revoked_at: Option<i64>,
    /// Milliseconds since the epoch, to the minute.
    pub last_used_at: Option<i64>,
}

/// A key to be created.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The name that its creator gave it.
    pub name: String,
    /// Its scopes.
    pub scopes: Scopes,
    /// Milliseconds since the epoch.
    pub expires_at: Option<i64>,
}

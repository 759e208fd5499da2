//! The options of a requirements file that are neither requirements nor other files: redundant ones are dropped with a
//! warning, and impossible ones are refused with a remedy.

use super::{OF_THE_OPERATOR, line};

/// The handling of a line with an option.
pub(super) enum Meaning {
    /// It requests the default behaviour, which the text describes.
    Needless(&'static str),
    /// It is impossible; the text has the reason and the remedy.
    Refused(String),
}

/// The default index of packages. Tools write it into generated files.
const PUBLIC_INDEXES: [&str; 3] = ["pypi.org/simple", "pypi.python.org/simple", "pypi.org/pypi"];
/// Hosts of that index.
const PUBLIC_HOSTS: [&str; 3] = ["pypi.org", "pypi.python.org", "files.pythonhosted.org"];

const WHEELS_ONLY: &str = "is not needed and ignored: only wheels are installed";
const AS_EVER: &str = "is not needed and ignored: it changes nothing here";
const PUBLIC: &str = "names the public index and is ignored: packages come from there, or from the operator's index";

pub(super) fn meaning(option: &str, value: &str) -> Meaning {
    use Meaning::{Needless, Refused};
    let of_the_operator = |how: &str| Refused(format!("{OF_THE_OPERATOR}{how}"));
    match option {
        "-i" | "--index-url" | "--pypi-url" | "--extra-index-url" if is_public_index(value) => Needless(PUBLIC),
        "--trusted-host" if PUBLIC_HOSTS.contains(&value.to_ascii_lowercase().as_str()) => Needless(PUBLIC),
        "-i" | "--index-url" | "--pypi-url" | "--extra-index-url" | "--no-index" => of_the_operator(""),
        "-f" | "--find-links" => of_the_operator(", or PIP_FIND_LINKS for a directory of wheels"),
        "--trusted-host" => of_the_operator(", and PIP_TRUSTED_HOST for one whose certificate is not checked"),
        "--only-binary" | "--prefer-binary" => Needless(WHEELS_ONLY),
        "--no-binary" if value == ":none:" => Needless(WHEELS_ONLY),
        "--no-cache-dir" | "--disable-pip-version-check" | "--use-feature" | "--use-deprecated" => Needless(AS_EVER),
        "--no-binary" => Refused(
            "asks for packages to be compiled, and only wheels are installed: leave the line out, and of a package \
             without wheels name a version that has some, or put its files into the source (vendor it)"
                .to_owned(),
        ),
        "--pre" => Refused(
            "asks for pre-releases of everything: leave the line out, and name one where you need it, as in \
             `name>=2.0rc1`"
                .to_owned(),
        ),
        _ => Refused(format!("is an option that is not taken: leave it out; {}", line::FORM)),
    }
}

/// Whether an address is that of the public index, in any spelling.
fn is_public_index(address: &str) -> bool {
    let address = address.to_ascii_lowercase();
    let place = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    place.is_some_and(|place| PUBLIC_INDEXES.contains(&place.trim_end_matches('/')))
}

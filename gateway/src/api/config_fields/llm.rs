//! Models: `llm_configs` and `llm_config`.

use crate::{
    api::json::{self, Object, complaint},
    deploy::providers,
    state::AppState,
};
use hoistway_model::{
    Code, Error, Name, Result,
    agent::{LlmConfig, LlmRole},
    error::excerpt,
    limits::{MAX_MEMBERS, MAX_MODEL},
    tool::MODEL_PROVIDERS,
};

const LIST: &str = "llm_configs";
const ONE: &str = "llm_config";
/// One model for each role. A longer list names a role twice, which is refused by its path.
pub const MAX_MODELS: usize = LlmRole::ALL.len();

/// Returns the models in the request's order, each with its path in the body.
pub fn parse(root: &mut Object, warnings: &mut Vec<String>) -> Result<Vec<(String, LlmConfig)>> {
    let mut models: Vec<(String, LlmConfig)> = Vec::new();
    for item in root.objects(LIST, MAX_MEMBERS)?.unwrap_or_default() {
        let (path, model) = one(item, warnings)?;
        if let Some((first, _)) = models.iter().find(|(_, other)| other.role == model.role) {
            let message = format!("{} has the role {} already", first, model.role.as_str());
            return Err(Error::field(format!("{path}.role"), message));
        }
        models.push((path, model));
    }
    if let Some(item) = root.object(ONE)? {
        let (path, model) = one(item, warnings)?;
        match models.iter().find(|(_, other)| other.role == model.role) {
            None => models.push((path, model)),
            Some((_, same)) if *same == model => {}
            Some((first, _)) => {
                let message = format!("contradicts {first}, which has another model for {}", model.role.as_str());
                return Err(Error::field(path, message));
            }
        }
    }
    Ok(models)
}

fn one(mut item: Object, warnings: &mut Vec<String>) -> Result<(String, LlmConfig)> {
    let given = item.required("provider")?;
    let model = item.required("model")?;
    let role = role(&mut item)?;
    check_model(&item, &model)?;
    let provider = provider(&item.path_of("provider"), &given)?;
    let path = item.path().to_owned();
    item.finish(warnings);
    Ok((path, LlmConfig { role, provider, model }))
}

/// Returns the use of the model.
pub fn role(item: &mut Object) -> Result<LlmRole> {
    let Some(text) = item.text("role")? else { return Ok(LlmRole::Chat) };
    LlmRole::parse(text.trim()).ok_or_else(|| {
        let roles = LlmRole::ALL.map(LlmRole::as_str).join(", ");
        Error::field(item.path_of("role"), format!("\"{}\" is not one of {roles}", excerpt(&text)))
    })
}

/// Returns the model's identifier.
pub fn model(item: &mut Object) -> Result<String> {
    let model = item.required("model")?;
    check_model(item, &model)?;
    Ok(model)
}

fn check_model(item: &Object, model: &str) -> Result<()> {
    if model.len() > MAX_MODEL || model.contains(char::is_control) {
        let message = format!("must be at most {MAX_MODEL} bytes without control characters");
        return Err(Error::field(item.path_of("model"), message));
    }
    Ok(())
}

/// Returns one of the four known providers in its own spelling, or a possible name of a registered provider.
pub fn provider(path: &str, given: &str) -> Result<String> {
    match MODEL_PROVIDERS.into_iter().find(|known| known.eq_ignore_ascii_case(given)) {
        Some(known) => Ok(known.to_owned()),
        // A provider cannot be registered under an invalid name, so no look-up is needed.
        None => match Name::parse("provider", given) {
            Ok(name) => Ok(name.into()),
            Err(_) => Err(providers::unknown_provider(path, given)),
        },
    }
}

/// A registered provider that the request refers to, with the protocol that the request gives for it.
pub struct NamedProvider {
    path: String,
    name: Name,
    protocol: Option<String>,
}

impl NamedProvider {
    /// Checks that it is registered with that protocol.
    pub async fn check(self, state: &AppState) -> Result<()> {
        let found = match state.tools.get_model_provider(self.name.clone()).await {
            Ok(found) => found,
            Err(e) if e.code == Code::NotFound => {
                let message = format!("\"{}\" is not a registered model provider", self.name);
                return Err(Error::field(format!("{}.model_provider", self.path), message));
            }
            Err(e) => return Err(e),
        };
        match self.protocol.filter(|protocol| !protocol.eq_ignore_ascii_case(&found.provider)) {
            Some(other) => {
                let message = format!("\"{}\" contradicts the model provider \"{}\"", excerpt(&other), self.name);
                Err(Error::field(format!("{}.provider", self.path), message))
            }
            None => Ok(()),
        }
    }
}

/// Reads every model of an agent from a change of its configuration.
pub fn change(root: &mut Object, warnings: &mut Vec<String>) -> Result<(Option<Vec<LlmConfig>>, Vec<NamedProvider>)> {
    let mut named = Vec::new();
    let Some(items) = root.objects(LIST, MAX_MEMBERS)? else { return Ok((None, named)) };
    let mut models: Vec<LlmConfig> = Vec::new();
    for item in items {
        let path = item.path().to_owned();
        let model = change_of_one(item, &mut named, warnings)?;
        if let Some(first) = models.iter().position(|other| other.role == model.role) {
            let message = format!("{LIST}[{first}] has the role {} already", model.role.as_str());
            return Err(Error::field(format!("{path}.role"), message));
        }
        models.push(model);
    }
    Ok((Some(models), named))
}

fn change_of_one(mut item: Object, named: &mut Vec<NamedProvider>, warnings: &mut Vec<String>) -> Result<LlmConfig> {
    if item.take("monthly_budget_usd").is_some() {
        let path = item.path_of("monthly_budget_usd");
        return Err(complaint(&path, format!("{path} is not supported")));
    }
    let registered = item.text("model_provider")?;
    let provider = match registered {
        Some(text) if !providers::is_known(&text) => {
            let name = json::name(&item.path_of("model_provider"), &text)?;
            let protocol = item.text("provider")?;
            named.push(NamedProvider { path: item.path().to_owned(), name: name.clone(), protocol });
            name.into()
        }
        Some(known) => known,
        None => {
            let given = item.required("provider")?;
            provider(&item.path_of("provider"), &given)?
        }
    };
    let (role, model) = (role(&mut item)?, model(&mut item)?);
    item.finish(warnings);
    Ok(LlmConfig { role, provider, model })
}

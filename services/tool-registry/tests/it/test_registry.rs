//! A tool registry in a directory of its own, and short words for what tests say again and again.

use hoistway_client::ToolRegistryClient;
use hoistway_kit::{db::DatabaseConfig, grpc::Server, secrets::MasterKey, token::ServiceToken};
use hoistway_model::{
    Code, Error, Name, Operation, OperationId, Result, Secret, ToolRegistry, page,
    tool::{
        ApiKeyLocation, AppliedTools, AuthType, Connection, IdentityProvider, NewModelProvider, NewTool, Resolved,
        Scheme, ToolPlan,
    },
};
use hoistway_tool_registry::{Config, Deps, ToolRegistryService, grpc, open};
use std::{collections::BTreeMap, ops::Deref, sync::Arc};
use tempfile::TempDir;

pub const PUBLIC_URL: &str = "http://localhost:18094";
pub const INTERNAL_URL: &str = "http://tool-registry:18094";

pub struct TestRegistry {
    pub registry: Arc<dyn ToolRegistry>,
    pub service: ToolRegistryService,
    pub config: Config,
    pub deps: Deps,
    dir: TempDir,
}

impl Deref for TestRegistry {
    type Target = dyn ToolRegistry;

    fn deref(&self) -> &(dyn ToolRegistry + 'static) {
        &*self.registry
    }
}

impl TestRegistry {
    pub async fn direct() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: dir.path().to_owned(),
            public_url: Some(PUBLIC_URL.into()),
            internal_url: Some(INTERNAL_URL.into()),
            database: DatabaseConfig::from(hoistway_testing::database_url(dir.path())),
            ..Config::default()
        };
        let deps = Deps {
            token: ServiceToken::generate().unwrap(),
            egress_token: ServiceToken::generate().unwrap(),
            master_key: MasterKey::from_bytes(&[7; 32]).unwrap(),
        };
        let service = open(&config, &deps).await.unwrap();
        Self { registry: Arc::new(service.clone()), service, config, deps, dir }
    }

    pub async fn over_grpc() -> Self {
        let registry = Self::direct().await;
        let transport = registry.server().into_local();
        Self { registry: Arc::new(ToolRegistryClient::new(transport)), ..registry }
    }

    /// The service's server.
    pub fn server(&self) -> Server {
        grpc(Arc::new(self.service.clone()), Arc::new(self.service.clone()), &self.deps).unwrap()
    }

    /// Ends the service and opens its directory again.
    pub async fn restart(self) -> Self {
        let key = self.deps.master_key.clone();
        self.restart_with(key).await
    }

    /// The same with another master key.
    pub async fn restart_with(self, master_key: MasterKey) -> Self {
        let Self { registry, service, config, deps, dir } = self;
        service.close().await;
        drop((registry, service));
        let deps = Deps { master_key, ..deps };
        let service = open(&config, &deps).await.unwrap();
        Self { registry: Arc::new(service.clone()), service, config, deps, dir }
    }

    pub async fn changed(&self, plan: &ToolPlan) -> bool {
        self.look(plan).await.unwrap().changed
    }

    pub async fn look(&self, plan: &ToolPlan) -> Result<Resolved> {
        self.resolve(plan.clone(), Vec::new(), None).await
    }

    pub async fn apply(&self, plan: &ToolPlan) -> (OperationId, AppliedTools) {
        let operation = Operation::new();
        let id = operation.id;
        (id, self.apply_tools(operation, plan.clone()).await.unwrap())
    }

    pub async fn fails(&self, plan: &ToolPlan) -> Error {
        let dry = self.look(plan).await.unwrap_err();
        let real = self.apply_tools(Operation::new(), plan.clone()).await.unwrap_err();
        assert_eq!((dry.code, &dry.message), (real.code, &real.message));
        real
    }

    /// A whole successful deploy.
    pub async fn deploy(&self, plan: &ToolPlan) -> AppliedTools {
        let (id, applied) = self.apply(plan).await;
        self.settle_tools(plan.agent.clone(), id).await.unwrap();
        applied
    }

    pub async fn names(&self) -> Vec<String> {
        page::of_tools(&*self.registry, |tool| Some(tool.name.into())).await.unwrap()
    }

    /// The agents that keep `tool` from being deleted, in the words of the refusal; the tool is gone when there are
    /// none.
    pub async fn users(&self, tool: &str) -> Option<String> {
        match self.delete_tool(Operation::new(), name(tool)).await {
            Ok(()) => None,
            Err(e) => {
                assert_eq!(e.code, Code::Conflict, "{e}");
                let start = format!("tool \"{tool}\" is used by ");
                Some(e.message.strip_prefix(&start).unwrap_or_else(|| panic!("{e}")).to_owned())
            }
        }
    }
}

pub fn name(text: &str) -> Name {
    Name::parse("name", text).unwrap()
}

pub fn tool(text: &str) -> NewTool {
    NewTool {
        name: name(text),
        description: format!("The tool {text}"),
        connection: Connection {
            base_url: format!("https://{text}.example"),
            port: 443,
            scheme: Scheme::Https,
            auth_type: AuthType::ApiKey,
            api_key: None,
            oauth2: None,
        },
        labels: BTreeMap::new(),
        credentials: BTreeMap::new(),
    }
}

pub fn elsewhere(tool: NewTool) -> NewTool {
    let connection = Connection { base_url: "https://elsewhere.example".into(), ..tool.connection };
    NewTool { connection, ..tool }
}

pub fn described(tool: NewTool, description: &str) -> NewTool {
    NewTool { description: description.into(), ..tool }
}

pub fn with_key(tool: NewTool, key: &str) -> NewTool {
    NewTool { credentials: api_key(key), ..tool }
}

pub fn in_header(mut tool: NewTool) -> NewTool {
    tool.connection.api_key = Some(ApiKeyLocation {
        location: "Header".into(),
        name: "Authorization".into(),
        value_prefix: "Bearer ".into(),
    });
    tool
}

pub fn plan(agent: &str, create: impl IntoIterator<Item = NewTool>, bind: &[&str]) -> ToolPlan {
    let bind = bind.iter().map(|n| name(n)).collect();
    ToolPlan { agent: name(agent), create: create.into_iter().collect(), bind }
}

pub fn keyed(provider: NewModelProvider, key: &str) -> NewModelProvider {
    NewModelProvider { credentials: api_key(key), ..provider }
}

pub fn api_key(key: &str) -> BTreeMap<String, Secret> {
    BTreeMap::from([("api_key".into(), Secret::new(key))])
}

/// The same for every kind of token.
pub fn price(text: &str) -> hoistway_model::ModelPrice {
    let amount = hoistway_model::Money::parse("price", text).unwrap();
    hoistway_model::ModelPrice { input: amount, cached_input: amount, output: amount }
}

pub fn provider(text: &str) -> NewModelProvider {
    NewModelProvider {
        name: name(text),
        provider: "openai".into(),
        endpoint: "https://models.example/v1".into(),
        models: vec!["small".into(), "large".into()],
        prices: BTreeMap::from([("small".into(), price("2.5"))]),
        timeout_seconds: Some(60),
        retries: 2,
        labels: BTreeMap::from([("team".into(), "a".into())]),
        credentials: BTreeMap::new(),
    }
}

pub fn identity(text: &str) -> IdentityProvider {
    IdentityProvider {
        name: name(text),
        host: "agents.example".into(),
        issuer: "https://id.example".into(),
        jwks_uri: "https://id.example/keys".into(),
        audiences: vec!["agents".into()],
        user_id_claim: "email".into(),
        allowed_domains: vec!["example.com".into()],
        labels: BTreeMap::new(),
        created_at: 0,
        updated_at: 0,
    }
}

//! Model providers.

use crate::test_registry::*;
use hoistway_model::{Code, Operation, tool::NewModelProvider};

crate::both_ways! {
    a_provider_is_registered_shown_and_deleted
    another_definition_is_a_conflict
    an_unknown_protocol_is_refused
    a_key_is_kept_and_goes_nowhere_else
    all_providers_together_have_a_bound_and_one_that_is_met_can_be_shortened
    credentials_of_bedrock_need_a_region_unless_the_endpoint_has_it
}

async fn a_provider_is_registered_shown_and_deleted(registry: TestRegistry) {
    let operation = Operation::new();
    let made = registry.create_model_provider(operation.clone(), provider("mine")).await.unwrap();
    assert!(made.created_at > 0);
    assert_eq!((made.provider.as_str(), made.endpoint.as_str()), ("openai", "https://models.example/v1"));
    assert_eq!((made.models.len(), made.labels["team"].as_str(), made.credentials_set_at), (2, "a", None));
    assert_eq!((made.timeout_seconds, made.retries), (Some(60), 2));
    assert_eq!(registry.get_model_provider(name("mine")).await.unwrap(), made);
    registry.create_model_provider(Operation::new(), provider("a-first")).await.unwrap();
    let names: Vec<_> = registry.list_model_providers().await.unwrap().into_iter().map(|p| p.name).collect();
    assert_eq!(names, [name("a-first"), name("mine")]);

    let delete = Operation::new();
    for _ in 0..2 {
        registry.delete_model_provider(delete.clone(), name("mine")).await.unwrap();
    }
    assert_eq!(registry.create_model_provider(operation, provider("mine")).await.unwrap(), made);
    let e = registry.get_model_provider(name("mine")).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::NotFound, "model provider \"mine\" not found"));
    let e = registry.delete_model_provider(Operation::new(), name("mine")).await.unwrap_err();
    assert_eq!(e.code, Code::NotFound);
}

async fn another_definition_is_a_conflict(registry: TestRegistry) {
    let made = registry.create_model_provider(Operation::new(), provider("mine")).await.unwrap();
    assert_eq!(registry.create_model_provider(Operation::new(), provider("mine")).await.unwrap(), made);
    for other in [
        NewModelProvider { provider: "ollama".into(), ..provider("mine") },
        NewModelProvider { endpoint: "https://models.example/other/v1".into(), ..provider("mine") },
        NewModelProvider { endpoint: String::new(), ..provider("mine") },
        NewModelProvider { models: vec!["small".into()], ..provider("mine") },
        NewModelProvider { prices: [("small".to_owned(), price("3"))].into(), ..provider("mine") },
        NewModelProvider { timeout_seconds: None, ..provider("mine") },
        NewModelProvider { retries: 0, ..provider("mine") },
        NewModelProvider { labels: Default::default(), ..provider("mine") },
    ] {
        let e = registry.create_model_provider(Operation::new(), other).await.unwrap_err();
        let text =
            "model provider \"mine\" already exists with another definition; PUT /api/model-providers/mine replaces it";
        assert_eq!((e.code, e.message.as_str()), (Code::Conflict, text));
    }
}

async fn an_unknown_protocol_is_refused(registry: TestRegistry) {
    let odd = NewModelProvider { provider: "Open\nAI".into(), ..provider("mine") };
    let e = registry.create_model_provider(Operation::new(), odd).await.unwrap_err();
    let text = "provider: \"Open\\nAI\" is not one of openai, anthropic, bedrock, ollama";
    assert_eq!((e.code, e.message.as_str()), (Code::InvalidArgument, text));
}

async fn a_key_is_kept_and_goes_nowhere_else(registry: TestRegistry) {
    registry.create_model_provider(Operation::new(), provider("mine")).await.unwrap();
    let made = registry.create_model_provider(Operation::new(), keyed(provider("mine"), "sk")).await.unwrap();
    assert!(made.credentials_set_at.is_some(), "registering it again may add a key");
    let e = registry.create_model_provider(Operation::new(), keyed(provider("mine"), "other")).await.unwrap_err();
    let text = "model provider \"mine\" already exists with other credentials; PUT /api/model-providers/mine/credentials replaces them";
    assert_eq!((e.code, e.message.as_str()), (Code::Conflict, text));

    let operation = Operation::new();
    let models = NewModelProvider { models: vec!["tiny".into()], ..provider("mine") };
    let put = registry.put_model_provider(operation.clone(), models.clone()).await.unwrap();
    assert_eq!(
        (put.created, put.value.models.len(), put.value.credentials_set_at),
        (false, 1, made.credentials_set_at)
    );
    assert_eq!(registry.put_model_provider(operation, models).await.unwrap(), put);
    assert_eq!((put.value.timeout_seconds, put.value.retries), (Some(60), 2));
    for moved in [
        NewModelProvider { endpoint: "https://evil.example/v1".into(), ..provider("mine") },
        NewModelProvider { endpoint: "http://models.example/v1".into(), ..provider("mine") },
        NewModelProvider { endpoint: "https://models.example/other/v1".into(), ..provider("mine") },
        NewModelProvider { endpoint: String::new(), ..provider("mine") },
        NewModelProvider { provider: "anthropic".into(), ..provider("mine") },
    ] {
        let e = registry.put_model_provider(Operation::new(), moved).await.unwrap_err();
        assert!(e.code == Code::Conflict && e.message.contains("DELETE /api/model-providers/mine/credentials"), "{e}");
        assert_eq!(registry.get_model_provider(name("mine")).await.unwrap(), put.value);
    }
    let moved = NewModelProvider { endpoint: "https://other.example".into(), ..provider("mine") };
    let put = registry.put_model_provider(Operation::new(), keyed(moved, "sk")).await.unwrap();
    assert_eq!(put.value.endpoint, "https://other.example", "whoever knows the key may send it elsewhere");

    let set = |key: &str| registry.set_model_provider_credentials(Operation::new(), name("mine"), api_key(key));
    assert!(set("new").await.unwrap().credentials_set_at.is_some());
    let none = || registry.set_model_provider_credentials(Operation::new(), name("mine"), Default::default());
    assert_eq!(none().await.unwrap().credentials_set_at, None);
    let e = none().await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::NotFound, "a credential of model provider \"mine\" not found"));
    let wrong = [("client_id".to_owned(), hoistway_model::Secret::new("s3cr3t"))].into();
    let e = registry.set_model_provider_credentials(Operation::new(), name("mine"), wrong).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::InvalidArgument, "credentials: openai takes api_key"));
    let put = registry.put_model_provider(Operation::new(), provider("new")).await.unwrap();
    assert!(put.created);
}

async fn all_providers_together_have_a_bound_and_one_that_is_met_can_be_shortened(registry: TestRegistry) {
    let models = |count: usize| (0..count).map(|i| format!("{i:02048}")).collect();
    let long = |text: &str, count| NewModelProvider { models: models(count), ..provider(text) };
    for i in 0..32 {
        registry.create_model_provider(Operation::new(), long(&format!("p{i}"), 250)).await.unwrap();
    }
    let e = registry.create_model_provider(Operation::new(), long("more", 250)).await.unwrap_err();
    assert_eq!(e.code, Code::ResourceExhausted, "{e}");
    assert!(e.message.contains("all model providers together would hold more than 16 MiB"), "{e}");
    registry.create_model_provider(Operation::new(), long("more", 1)).await.unwrap();
    let e = registry.put_model_provider(Operation::new(), long("more", 250)).await.unwrap_err();
    assert_eq!(e.code, Code::ResourceExhausted, "{e}");
    registry.put_model_provider(Operation::new(), long("p0", 10)).await.unwrap();
    registry.put_model_provider(Operation::new(), long("more", 250)).await.unwrap();
    assert_eq!(registry.list_model_providers().await.unwrap().len(), 33);
}

async fn credentials_of_bedrock_need_a_region_unless_the_endpoint_has_it(registry: TestRegistry) {
    let secrets = |pairs: &[(&str, &str)]| {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), hoistway_model::Secret::new(*value));
        pairs.iter().map(pair).collect::<std::collections::BTreeMap<_, _>>()
    };
    let aws = |endpoint: &str, credentials: &[(&str, &str)]| NewModelProvider {
        provider: "bedrock".into(),
        endpoint: endpoint.into(),
        credentials: secrets(credentials),
        ..provider("aws")
    };
    let put = async |provider: NewModelProvider| registry.put_model_provider(Operation::new(), provider).await;
    let (id, secret) = (("access_key_id", "AKIA"), ("secret_access_key", "s3cr3t"));
    let required = "credentials.region: is required, such as us-east-1, because the endpoint names no AWS region";
    let wrong = "credentials.region: is not the name of an AWS region, such as us-east-1";
    for (endpoint, credentials, message) in [
        ("", &[id, secret][..], required),
        ("", &[("api_key", "k")], required),
        ("https://proxy.example", &[id, secret], required),
        ("", &[id, secret, ("region", "Europe (Ireland)")], wrong),
    ] {
        let e = put(aws(endpoint, credentials)).await.unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (Code::InvalidArgument, message), "{endpoint}");
    }
    put(aws("", &[])).await.unwrap();
    let set = async |credentials: &[(&str, &str)]| {
        registry.set_model_provider_credentials(Operation::new(), name("aws"), secrets(credentials)).await
    };
    assert_eq!(set(&[id, secret]).await.unwrap_err().message, required);
    assert!(set(&[id, secret, ("region", "us-east-1")]).await.unwrap().credentials_set_at.is_some());
    put(aws("https://bedrock-runtime.eu-west-1.amazonaws.com", &[id, secret])).await.unwrap();
    put(aws("https://proxy.example", &[("api_key", "k")])).await.unwrap();
}

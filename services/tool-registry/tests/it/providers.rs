//! Model providers.

use crate::world::*;
use hoistway_model::{Code, Operation, tool::ModelProvider};

crate::both_ways! {
    a_provider_is_registered_shown_and_deleted
    another_definition_is_a_conflict
    an_unknown_protocol_is_refused
}

async fn a_provider_is_registered_shown_and_deleted(world: World) {
    let operation = Operation::new();
    let made = world.create_model_provider(operation.clone(), provider("mine")).await.unwrap();
    assert!(made.created_at > 0);
    assert_eq!(made, ModelProvider { created_at: made.created_at, ..provider("mine") });
    assert_eq!(world.get_model_provider(name("mine")).await.unwrap(), made);
    world.create_model_provider(Operation::new(), provider("a-first")).await.unwrap();
    let names: Vec<_> = world.list_model_providers().await.unwrap().into_iter().map(|p| p.name).collect();
    assert_eq!(names, [name("a-first"), name("mine")]);

    let delete = Operation::new();
    for _ in 0..2 {
        world.delete_model_provider(delete.clone(), name("mine")).await.unwrap();
    }
    assert_eq!(world.create_model_provider(operation, provider("mine")).await.unwrap(), made);
    let e = world.get_model_provider(name("mine")).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::NotFound, "model provider \"mine\" not found"));
    let e = world.delete_model_provider(Operation::new(), name("mine")).await.unwrap_err();
    assert_eq!(e.code, Code::NotFound);
}

async fn another_definition_is_a_conflict(world: World) {
    let made = world.create_model_provider(Operation::new(), provider("mine")).await.unwrap();
    assert_eq!(world.create_model_provider(Operation::new(), provider("mine")).await.unwrap(), made);
    for other in [
        ModelProvider { provider: "ollama".into(), ..provider("mine") },
        ModelProvider { endpoint: String::new(), ..provider("mine") },
        ModelProvider { models: vec!["small".into()], ..provider("mine") },
        ModelProvider { labels: Default::default(), ..provider("mine") },
    ] {
        let e = world.create_model_provider(Operation::new(), other).await.unwrap_err();
        let text = "model provider \"mine\" already exists with another definition";
        assert_eq!((e.code, e.message.as_str()), (Code::Conflict, text));
    }
}

async fn an_unknown_protocol_is_refused(world: World) {
    let odd = ModelProvider { provider: "Open\nAI".into(), ..provider("mine") };
    let e = world.create_model_provider(Operation::new(), odd).await.unwrap_err();
    let text = "provider: \"Open\\nAI\" is not one of openai, anthropic, bedrock, ollama";
    assert_eq!((e.code, e.message.as_str()), (Code::InvalidArgument, text));
}

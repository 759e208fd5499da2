//! Clients of streamed answers.

use crate::test_gateway::TestGateway;
use hoistway_model::log::LogPiece;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

pub async fn chunk(body: &mut Incoming) -> Option<String> {
    let data = body.frame().await?.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

impl TestGateway {
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Incoming {
        let key = format!("Bearer {}", self.key);
        let response = self.open("GET", path, "", &[&[("authorization", key.as_str())], headers].concat()).await;
        assert_eq!(response.status(), 200, "{path}");
        response.into_body()
    }

    pub fn log(&self) -> mpsc::Sender<LogPiece> {
        let (sender, receiver) = mpsc::channel(8);
        *self.agents.log.lock().unwrap() = Some(receiver);
        sender
    }
}

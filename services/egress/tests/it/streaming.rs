//! Bodies that take their time.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, SOON, TestEgress, basic, get, h2, tool},
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::{sync::mpsc, time::timeout};

async fn egress(speaks_http2: bool) -> (TestEgress, Agent, MockTool) {
    let ca = TestCa::new();
    let tool_server = match speaks_http2 {
        true => MockTool::tls(&ca, "api.test").await,
        false => MockTool::tls_http1(&ca, "api.test").await,
    };
    let resolve = vec![format!("api.test:443={}", tool_server.address)];
    let tools = [vec![tool("api", "https://api.test")]];
    let (egress, [agent]) = TestEgress::start(&ca, tools, |config| config.resolve = resolve).await;
    (egress, agent, tool_server)
}

#[tokio::test]
async fn pieces_come_as_they_are_made() {
    for (upstream, alpn) in [(true, "h2"), (true, "http/1.1"), (false, "h2"), (false, "http/1.1")] {
        let (egress, agent, tool_server) = egress(upstream).await;
        let tunnel = egress.tunnel(&agent, "api.test:443").await.unwrap();
        let tls = egress.tls(tunnel, "api.test", &[alpn]).await.unwrap();
        let pieces = tool_server.stream();
        let response = if alpn == "h2" {
            h2(tls).await.send_request(get("https://api.test/stream")).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            let mut request = get("/stream");
            request.headers_mut().insert("host", "api.test".parse().unwrap());
            sender.send_request(request).await.unwrap()
        };
        let mut body = response.into_body();
        for piece in ["one", "two", "three"] {
            // The next piece is made only when this one has arrived.
            pieces.send(piece.into()).await.unwrap();
            let frame = timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        drop(pieces);
        // HTTP/2 may end with a piece that is empty.
        let rest = timeout(SOON, body.collect()).await.unwrap().unwrap().to_bytes();
        assert!(rest.is_empty(), "{rest:?}");
        let record = egress.record().await;
        assert_eq!((record.bytes_down, record.broken), (11, None));
    }
}

#[tokio::test]
async fn a_request_streams_and_a_client_that_goes_away_is_recorded() {
    let (egress, agent, tool_server) = egress(true).await;
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        Some((Ok::<_, Infallible>(Frame::data(receiver.recv().await?)), receiver))
    });
    let request =
        Request::post("/tools/api/upload").header("proxy-authorization", basic(&agent.token)).header("host", "e");
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(egress.connect().await)).await.unwrap();
    tokio::spawn(connection);
    let answer = client.send_request(request.body(StreamBody::new(pieces)).unwrap());
    let feed = async {
        for _ in 0..64 {
            sender.send(vec![7; 64 << 10].into()).await.unwrap();
        }
        drop(sender);
    };
    let (answer, ()) = tokio::join!(answer, feed);
    answer.unwrap().into_body().collect().await.unwrap();
    assert_eq!(tool_server.seen("/upload")[0]["length"], (64 * 64) << 10);
    assert_eq!(egress.record().await.bytes_up, (64 * 64) << 10);

    let pieces = tool_server.stream();
    let tunnel = egress.tunnel(&agent, "api.test:443").await.unwrap();
    let tls = egress.tls(tunnel, "api.test", &["http/1.1"]).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = get("/stream");
    request.headers_mut().insert("host", "api.test".parse().unwrap());
    let response = client.send_request(request).await.unwrap();
    drop((response, client));
    connection.abort();
    assert_eq!(egress.record().await.broken, Some("agent_went_away"));
    // The tool is told.
    timeout(SOON, pieces.closed()).await.unwrap();
}

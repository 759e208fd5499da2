//! Copying the bytes of a connection to another one.

use std::{io, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split},
    time::timeout,
};

/// The time that a client may take to end its side after the server has ended its own.
const LINGER: Duration = Duration::from_secs(5);

/// Copies both ways until the server has ended its side, and then what the client still sends: a connection that is
/// closed with unread bytes is reset, and its client may not see the answer. A client that has sent everything may
/// still read.
pub(super) async fn relay<C, S>(client: C, server: S) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (split(client), split(server));
    let mut up = pin!(async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    });
    let mut down = pin!(async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    });
    tokio::select! {
        ended = &mut down => {
            ended?;
            // Both may be late or gone by now: the answer is out.
            let _ = timeout(LINGER, up).await;
            Ok(())
        }
        ended = &mut up => {
            ended?;
            down.await
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, duplex};

    #[tokio::test]
    async fn a_client_that_has_sent_everything_still_reads_the_answer() {
        let ((mut client, near), (far, mut server)) = (duplex(64), duplex(64));
        let relaying = tokio::spawn(relay(near, far));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        relaying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_may_send_more_after_the_server_has_answered() {
        let ((mut client, near), (far, mut server)) = (duplex(8), duplex(64));
        let relaying = tokio::spawn(relay(near, far));
        server.write_all(b"too large").await.unwrap();
        server.shutdown().await.unwrap();
        // More than fits between them.
        client.write_all(&[0; 64]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "too large");
        relaying.await.unwrap().unwrap();
    }
}

//! Streaming tars in and out.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyDataStream, Empty};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    header,
};
use protocol::{ByteStream, Error, Result, routes::Route};
use tokio::{
    io::{AsyncWriteExt, WriteHalf},
    time::timeout,
};

use crate::{
    address::{Address, Endpoint, Socket},
    answer::Context,
    http::{self, Call, Connection, HOST, USER_AGENT, chain},
    raw::{self, Reader},
    retry::Backoff,
};

/// Nothing moved for this long.
#[derive(Debug)]
struct Idle(Duration);

/// Waits for the server's next move, for as long as it may stand still.
async fn unless_idle<T>(limit: Option<Duration>, next: impl Future<Output = T>) -> Result<T, Idle> {
    let Some(limit) = limit else { return Ok(next.await) };
    timeout(limit, next).await.map_err(|_| Idle(limit))
}

enum Upload {
    /// Everything was sent, or the server stopped reading: in both cases its answer says how it went.
    Sent,
    /// The tar's own source failed.
    Broken(io::Error),
}

/// Uploads `tar` and waits for the answer, which may come before the upload's end.
///
/// A source that fails, and dropping this future, close the connection without the last chunk: the server sees a body
/// that was cut short and takes it for a failure.
pub(crate) async fn stream_in(endpoint: &Endpoint, call: &Call<'_>, tar: ByteStream) -> Result<()> {
    call.check_parameters()?;
    let context = call.context(endpoint);
    let limit = endpoint.stream_idle_timeout;
    let idle = |Idle(limit)| context.timed_out(limit);
    let (reader, mut writer) = tokio::io::split(endpoint.connect().await?);
    let mut reader = Reader::new(reader);
    let fields = "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n";
    let request = raw::head(call, fields);

    let head = {
        let upload = upload(&mut writer, &request, tar, limit);
        let head = reader.head();
        tokio::pin!(upload, head);
        tokio::select! {
            head = &mut head => head,
            upload = &mut upload => match upload.map_err(idle)? {
                Upload::Sent => unless_idle(limit, head).await.map_err(idle)?,
                Upload::Broken(error) => {
                    let message = format!("stream_in: cannot read the tar to send: {error}");
                    return Err(Error::Failed { message });
                }
            },
        }
    };
    let head = head.map_err(|error| context.broken(&error))?;
    if (200..300).contains(&head.status) {
        return Ok(());
    }
    let body = unless_idle(limit, reader.body(&head)).await.map_err(idle)?;
    Err(context.error(head.status, &body.map_err(|error| context.broken(&error))?))
}

async fn upload(
    writer: &mut WriteHalf<Socket>,
    request: &str,
    mut tar: ByteStream,
    limit: Option<Duration>,
) -> Result<Upload, Idle> {
    if write_all(writer, request.as_bytes(), limit).await?.is_err() {
        return Ok(Upload::Sent);
    }
    // The source may take its time.
    while let Some(chunk) = tar.next().await {
        let chunk = match chunk {
            // An empty chunk would be the end.
            Ok(chunk) if chunk.is_empty() => continue,
            Ok(chunk) => chunk,
            Err(error) => return Ok(Upload::Broken(error)),
        };
        let size = format!("{:x}\r\n", chunk.len());
        for part in [size.as_bytes(), &chunk, b"\r\n"] {
            if write_all(writer, part, limit).await?.is_err() {
                return Ok(Upload::Sent);
            }
        }
    }
    // As above: the answer is what counts.
    let _ = write_all(writer, b"0\r\n\r\n", limit).await?;
    Ok(Upload::Sent)
}

/// As tokio's, but the clock begins anew with each byte that is taken.
async fn write_all(
    writer: &mut WriteHalf<Socket>,
    mut bytes: &[u8],
    limit: Option<Duration>,
) -> Result<io::Result<()>, Idle> {
    while !bytes.is_empty() {
        match unless_idle(limit, writer.write(bytes)).await? {
            Ok(0) => return Ok(Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => bytes = &bytes[count..],
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

/// The tar that the server answers with; its last item is an error if it was cut short.
pub(crate) async fn stream_out(endpoint: &Endpoint, call: &Call<'_>) -> Result<ByteStream> {
    call.check_parameters()?;
    let context = call.context(endpoint);
    let limit = endpoint.stream_idle_timeout;
    let mut backoff = Backoff::new(endpoint.retry_for);
    let (answer, connection) = loop {
        match ask(endpoint, call, &mut backoff).await {
            Err(Error::Connection { .. }) if backoff.pause().await => {}
            asked => break asked?,
        }
    };
    let status = answer.status();
    if !status.is_success() {
        let body = unless_idle(limit, http::read(answer.into_body(), &context)).await;
        let body = body.map_err(|Idle(limit)| context.timed_out(limit))??;
        return Err(context.error(status.as_u16(), &body));
    }
    let chunked = answer.headers().contains_key(header::TRANSFER_ENCODING);
    if !chunked && answer.body().size_hint().exact().is_none() {
        return Err(context.malformed(&"it has no length, so that one cut short would look complete"));
    }
    let body = BodyDataStream::new(answer.into_body());
    let download = Download { body, _connection: connection, address: endpoint.address.clone(), limit };
    Ok(Box::pin(stream::unfold(Some(download), |download| async move {
        let mut download = download?;
        let chunk = download.next().await?;
        let rest = chunk.is_ok().then_some(download);
        Some((chunk, rest))
    })))
}

/// A tar on its way.
struct Download {
    body: BodyDataStream<Incoming>,
    /// Stays for as long as the body is read, and no longer.
    _connection: Connection<Empty<Bytes>>,
    address: Address,
    limit: Option<Duration>,
}

impl Download {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let context = Context { address: &self.address, route: Route::StreamOut, parameters: &[] };
        Some(match unless_idle(self.limit, self.body.next()).await {
            Ok(chunk) => chunk?.map_err(|error| {
                let address = &self.address;
                let message = format!("stream_out: the tar from {address} was cut short: {}", chain(&error));
                io::Error::new(io::ErrorKind::UnexpectedEof, Error::Connection { message })
            }),
            Err(Idle(limit)) => Err(io::Error::new(io::ErrorKind::TimedOut, context.timed_out(limit))),
        })
    }
}

/// One attempt, as far as the answer's head.
async fn ask(
    endpoint: &Endpoint,
    call: &Call<'_>,
    backoff: &mut Backoff,
) -> Result<(Response<Incoming>, Connection<Empty<Bytes>>)> {
    let context = call.context(endpoint);
    let request = Request::builder()
        .method(call.route.def().method)
        .uri(call.path_and_query())
        .header(header::HOST, HOST)
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Error::failed(&error))?;
    let mut connection = http::connect(endpoint, &context, backoff).await?;
    let answer = unless_idle(endpoint.stream_idle_timeout, connection.sender.send_request(request)).await;
    let answer = answer.map_err(|Idle(limit)| context.timed_out(limit))?;
    Ok((answer.map_err(|error| http::broken(&context, &error))?, connection))
}

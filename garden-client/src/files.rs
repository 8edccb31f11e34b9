//! Streaming tars in and out.

use std::io;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyDataStream, Empty};
use hyper::{Request, body::Body, header};
use protocol::{ByteStream, Error, Result};
use tokio::io::{AsyncWriteExt, WriteHalf};

use crate::{
    address::{Endpoint, Socket},
    http::{self, Call, HOST, USER_AGENT, chain},
    raw::{self, Reader},
};

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
    let (reader, mut writer) = tokio::io::split(endpoint.connect().await?);
    let mut reader = Reader::new(reader);
    let fields = "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n";
    let request = raw::head(call, fields);

    let head = {
        let upload = upload(&mut writer, &request, tar);
        let head = reader.head();
        tokio::pin!(upload, head);
        tokio::select! {
            head = &mut head => head,
            upload = &mut upload => match upload {
                Upload::Sent => head.await,
                Upload::Broken(error) => {
                    let message = format!("stream_in: cannot read the tar to send: {error}");
                    return Err(Error::Failed { message });
                }
            },
        }
    };
    let head = head.map_err(|error| context.lost(&error))?;
    if (200..300).contains(&head.status) {
        return Ok(());
    }
    let body = reader.body(&head).await.map_err(|error| context.lost(&error))?;
    Err(context.error(head.status, &body))
}

async fn upload(writer: &mut WriteHalf<Socket>, request: &str, mut tar: ByteStream) -> Upload {
    if writer.write_all(request.as_bytes()).await.is_err() {
        return Upload::Sent;
    }
    while let Some(chunk) = tar.next().await {
        let chunk = match chunk {
            // An empty chunk would be the end.
            Ok(chunk) if chunk.is_empty() => continue,
            Ok(chunk) => chunk,
            Err(error) => return Upload::Broken(error),
        };
        if write_chunk(writer, &chunk).await.is_err() {
            return Upload::Sent;
        }
    }
    // As above: the answer is what counts.
    let _ = raw::write(writer, b"0\r\n\r\n").await;
    Upload::Sent
}

async fn write_chunk(writer: &mut WriteHalf<Socket>, chunk: &[u8]) -> io::Result<()> {
    writer.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
    writer.write_all(chunk).await?;
    writer.write_all(b"\r\n").await
}

/// The tar that the server answers with; its last item is an error if it was cut short.
pub(crate) async fn stream_out(endpoint: &Endpoint, call: &Call<'_>) -> Result<ByteStream> {
    call.check_parameters()?;
    let context = call.context(endpoint);
    let request = Request::builder()
        .method(call.route.def().method)
        .uri(call.path_and_query())
        .header(header::HOST, HOST)
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Error::failed(&error))?;
    let mut sender = http::connect(endpoint, &context).await?;
    let answer = sender.send_request(request).await.map_err(|error| context.lost(&chain(&error)))?;
    let status = answer.status();
    if !status.is_success() {
        let body = http::read(answer.into_body()).await.map_err(|error| context.lost(&error))?;
        return Err(context.error(status.as_u16(), &body));
    }
    let chunked = answer.headers().contains_key(header::TRANSFER_ENCODING);
    if !chunked && answer.body().size_hint().exact().is_none() {
        return Err(context.lost(&"the answer has no length, so that one cut short would look complete"));
    }
    let cut_short = format!("stream_out: the tar from {} was cut short", endpoint.address);
    let chunks = BodyDataStream::new(answer.into_body()).map(move |chunk| {
        chunk.map_err(|error| {
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("{cut_short}: {}", chain(&error)))
        })
    });
    // The sender stays for as long as the body is read.
    Ok(Box::pin(chunks.chain(stream::once(async move { drop(sender) }).filter_map(|()| async { None }))))
}

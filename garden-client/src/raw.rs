//! HTTP by hand, for the requests where the socket matters: those whose connection becomes a raw stream behind the
//! answer's head, which no HTTP library hands over since the head says chunked, and uploads, whose answer may come
//! before the upload's end.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use protocol::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::{
    address::{Endpoint, Socket},
    http::{Call, HOST, USER_AGENT},
};

const HEAD_MAX_BYTES: usize = 16 << 10;
const HEAD_MAX_FIELDS: usize = 64;
/// Of an error's body, the only kind that is read here.
const BODY_MAX_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 64 << 10;

/// A connection for requests by hand, one after the other.
pub(crate) struct Wire<'a> {
    pub endpoint: &'a Endpoint,
    reader: Reader,
    writer: WriteHalf<Socket>,
}

impl<'a> Wire<'a> {
    pub async fn open(endpoint: &'a Endpoint) -> Result<Self> {
        Ok(Wire::over(endpoint, endpoint.connect().await?))
    }

    pub fn over(endpoint: &'a Endpoint, socket: Socket) -> Self {
        let (reader, writer) = tokio::io::split(socket);
        Wire { endpoint, reader: Reader::new(reader), writer }
    }

    /// Sends the call, with these further header fields, and reads the head of its answer.
    pub async fn ask(&mut self, call: &Call<'_>, fields: &str) -> Result<Head> {
        call.check_parameters()?;
        let body = call.body.as_deref().unwrap_or_default();
        let fields = match call.body {
            Some(_) => {
                format!("{fields}Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
            }
            None => fields.to_owned(),
        };
        // One write: nothing that the server does can come between head and body.
        let request = [head(call, &fields).as_bytes(), body].concat();
        let head = match write(&mut self.writer, &request).await {
            Ok(()) => self.reader.head().await,
            // A server may answer with an error before it has read everything.
            Err(error) => self.reader.head().await.map_err(|_| error),
        };
        head.map_err(|error| call.context(self.endpoint).broken(&error))
    }

    /// The body that belongs to the head.
    pub async fn body(&mut self, call: &Call<'_>, head: &Head) -> Result<Bytes> {
        self.reader.body(head).await.map_err(|error| call.context(self.endpoint).broken(&error))
    }

    /// The socket, and what was read of it already.
    pub fn into_socket(self) -> (Socket, Bytes) {
        let Reader { io, buffer } = self.reader;
        (io.unsplit(self.writer), buffer.freeze())
    }
}

/// Sends the call and, if the answer is a success, hands over the socket behind the answer's head.
pub(crate) async fn hijack(endpoint: &Endpoint, call: &Call<'_>) -> Result<(Reader, WriteHalf<Socket>)> {
    let mut wire = Wire::open(endpoint).await?;
    let head = wire.ask(call, "").await?;
    if (200..300).contains(&head.status) {
        return Ok((wire.reader, wire.writer));
    }
    let body = wire.body(call, &head).await?;
    Err(call.context(endpoint).error(head.status, &body))
}

/// A request's head with these further fields.
pub(crate) fn head(call: &Call<'_>, fields: &str) -> String {
    let (method, path) = (call.route.def().method, call.path_and_query());
    format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: {USER_AGENT}\r\n{fields}\r\n")
}

pub(crate) async fn write(writer: &mut WriteHalf<Socket>, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// What matters of an answer's head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub status: u16,
    length: Option<usize>,
    chunked: bool,
    /// Names in lower case; values that are text.
    fields: Vec<(String, String)>,
}

impl Head {
    /// The first field of that name, which is in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The receiving half of a connection.
pub(crate) struct Reader<R = ReadHalf<Socket>> {
    io: R,
    /// Received, but not yet taken.
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R) -> Self {
        Reader { io, buffer: BytesMut::new() }
    }

    /// The next bytes, whatever they are; empty at the end.
    pub async fn chunk(&mut self) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.buffer.split().freeze())
    }

    /// Receives some more; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ_BYTES);
        Ok(self.io.read_buf(&mut self.buffer).await? > 0)
    }

    async fn fill_or_fail(&mut self) -> io::Result<()> {
        if self.fill().await? {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended in the middle of the answer"))
    }

    /// The answer's head, interim answers (100 Continue) left out.
    pub async fn head(&mut self) -> io::Result<Head> {
        loop {
            match parse_head(&self.buffer)? {
                Some((length, head)) => {
                    self.buffer.advance(length);
                    if head.status == 101 || head.status >= 200 {
                        return Ok(head);
                    }
                }
                None if self.buffer.len() >= HEAD_MAX_BYTES => {
                    return Err(invalid(format!("the answer's head is larger than {HEAD_MAX_BYTES} bytes")));
                }
                None => self.fill_or_fail().await?,
            }
        }
    }

    /// The body that belongs to the head.
    pub async fn body(&mut self, head: &Head) -> io::Result<Bytes> {
        if head.chunked {
            return self.chunked_body().await;
        }
        match head.length {
            Some(length) => self.take(length).await,
            None => {
                while self.buffer.len() <= BODY_MAX_BYTES && self.fill().await? {}
                let length = self.buffer.len();
                self.take(length).await
            }
        }
    }

    async fn chunked_body(&mut self) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let (line, size) = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete(found)) => found,
                Ok(httparse::Status::Partial) if self.buffer.len() < HEAD_MAX_BYTES => {
                    self.fill_or_fail().await?;
                    continue;
                }
                _ => return Err(invalid("the answer's chunks are broken".to_owned())),
            };
            self.buffer.advance(line);
            if size == 0 {
                return Ok(body.freeze());
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            body.extend_from_slice(&self.take(size).await?);
            too_large(body.len())?;
            self.take(b"\r\n".len()).await?;
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Bytes> {
        too_large(length)?;
        while self.buffer.len() < length {
            self.fill_or_fail().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }
}

fn too_large(length: usize) -> io::Result<()> {
    if length <= BODY_MAX_BYTES {
        return Ok(());
    }
    Err(invalid(format!("the answer is larger than {BODY_MAX_BYTES} bytes")))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A head and its length, or none where more bytes are needed.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(usize, Head)>> {
    let mut fields = [httparse::EMPTY_HEADER; HEAD_MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(invalid(format!("the answer is not HTTP: {error}"))),
    };
    let status = response.code.unwrap_or_default();
    let mut head = Head { status, length: None, chunked: false, fields: Vec::new() };
    for field in response.headers.iter() {
        let value = str::from_utf8(field.value).unwrap_or_default().trim();
        head.fields.push((field.name.to_ascii_lowercase(), value.to_owned()));
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = value.parse();
            head.length =
                Some(length.map_err(|_| invalid(format!("the answer's Content-Length is {value:?}")))?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = value.to_ascii_lowercase().ends_with("chunked");
        }
    }
    Ok(Some((length, head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(text: &'static str) -> (io::Result<Head>, Reader<&'static [u8]>) {
        let mut reader = Reader::new(text.as_bytes());
        (reader.head().await, reader)
    }

    #[tokio::test]
    async fn a_head_leaves_what_follows_it() {
        let (head, mut reader) =
            answer("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n{\"a\":1}\n").await;
        let head = head.unwrap();
        assert_eq!((head.status, head.length, head.chunked), (201, None, true));
        assert_eq!((head.field("transfer-encoding"), head.field("x")), (Some("chunked"), None));
        assert_eq!(reader.chunk().await.unwrap(), "{\"a\":1}\n");
        assert_eq!(reader.chunk().await.unwrap(), "");
    }

    #[tokio::test]
    async fn interim_answers_are_passed_over() {
        let (head, _) = answer("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(head.unwrap().status, 200);
    }

    #[tokio::test]
    async fn a_body_by_length_by_chunks_or_until_the_end() {
        for text in [
            "HTTP/1.1 500 E\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1",
            "HTTP/1.1 500 E\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 500 E\r\n\r\nhello",
        ] {
            let (head, mut reader) = answer(text).await;
            assert_eq!(reader.body(&head.unwrap()).await.unwrap(), "hello", "{text}");
        }
    }

    #[tokio::test]
    async fn a_hostile_answer_is_an_error_and_bounded() {
        for text in [
            "",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 500",
            "HTTP/1.1 500 E\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 500 E\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ] {
            assert!(answer(text).await.0.is_err(), "{text}");
        }
        for text in [
            "HTTP/1.1 500 E\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 500 E\r\nContent-Length: 9999999999\r\n\r\nhell",
            "HTTP/1.1 500 E\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nhell",
            "HTTP/1.1 500 E\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
            "HTTP/1.1 500 E\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ] {
            let (head, mut reader) = answer(text).await;
            assert!(reader.body(&head.unwrap()).await.is_err(), "{text}");
        }
        let endless = io::Cursor::new([b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'x'; 1 << 20]].concat());
        let error = Reader::new(endless).head().await.unwrap_err();
        assert!(error.to_string().contains("larger than 16384 bytes"), "{error}");
    }
}

//! The commands that ask once and answer once.

use garden_client::{
    Backend, Client, ContainerSpec, Error,
    protocol::{CreateResponse, ImageRef, Limits, ListResponse, MemoryLimits, PidLimits, PropertyValue},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    args::{Command, Create, Properties},
    files,
    report::Failure,
    show,
};

/// What a command prints.
pub struct Answer {
    /// For people.
    pub text: String,
    /// With `--json`: the wire's form where it has one.
    pub json: String,
}

impl Answer {
    fn new(document: &impl Serialize, text: impl Into<String>) -> Result<Self, Failure> {
        let json = serde_json::to_string_pretty(document);
        let json = json.map_err(|error| Failure::new("answer", &Error::failed(&error)))?;
        Ok(Answer { text: text.into(), json: json + "\n" })
    }

    /// Of a command whose success says it all.
    fn done() -> Result<Self, Failure> {
        Answer::new(&json!({}), "")
    }
}

pub async fn answer(client: &Client, command: Command) -> Result<Answer, Failure> {
    let failed = |doing: String| move |error: Error| Failure::new(doing, &error);
    match command {
        Command::Ping => {
            client.ping().await.map_err(failed("ping".into()))?;
            let document = json!({ "target": client.address().to_string() });
            Answer::new(&document, format!("{} answers\n", client.address()))
        }
        Command::Capacity => {
            let capacity = client.capacity().await.map_err(failed("capacity".into()))?;
            Answer::new(&capacity, show::capacity(&capacity))
        }
        Command::Create(create) => {
            let doing = format!("create {}", create.handle);
            let handle = client.create(spec(*create)).await.map_err(failed(doing.trim_end().to_owned()))?;
            Answer::new(&CreateResponse { handle: handle.clone() }, show::lines([&handle]))
        }
        Command::List { properties } => {
            let filter = properties.into_iter().collect();
            let handles = client.list(&filter).await.map_err(failed("list".into()))?;
            let text = show::lines(handles.iter());
            Answer::new(&ListResponse { handles: handles.to_vec() }, text)
        }
        Command::Info { handle } => {
            let info = client.info(&handle).await.map_err(failed(format!("info {handle}")))?;
            Answer::new(&*info, show::info(&info))
        }
        Command::Metrics { handle } => {
            let metrics = client.metrics(&handle).await.map_err(failed(format!("metrics {handle}")))?;
            Answer::new(&metrics, show::metrics(&metrics))
        }
        Command::Stop { handle, kill } => {
            client.stop(&handle, kill).await.map_err(failed(format!("stop {handle}")))?;
            Answer::done()
        }
        Command::StreamIn { source, destination, user } => {
            files::stream_in(client, source, destination, user).await?;
            Answer::done()
        }
        Command::StreamOut { source, destination, user } => {
            let tar_goes_to_stdout = destination.as_os_str() == "-";
            files::stream_out(client, source, destination, user).await?;
            if tar_goes_to_stdout {
                Ok(Answer { text: String::new(), json: String::new() })
            } else {
                Answer::done()
            }
        }
        Command::NetIn { handle, ports } => {
            let ports = client.net_in(&handle, ports).await.map_err(failed(format!("net-in {handle}")))?;
            Answer::new(&ports, format!("{} -> {}\n", ports.host_port, ports.container_port))
        }
        Command::NetOut { handle, rules, replace } => {
            let done = match replace {
                true => client.replace_net_out(&handle, rules).await,
                false => client.net_out(&handle, rules).await,
            };
            done.map_err(failed(format!("net-out {handle}")))?;
            Answer::done()
        }
        Command::Properties(properties) => answer_properties(client, properties).await,
        Command::Destroy { handles } => destroy(client, handles).await,
        // Both print while they run, and have an exit status of their own.
        Command::Run(_) | Command::Attach { .. } => Answer::done(),
    }
}

async fn answer_properties(client: &Client, properties: Properties) -> Result<Answer, Failure> {
    let failed = |verb: &str, handle: &str| {
        let doing = format!("properties {verb} {handle}");
        move |error: Error| Failure::new(doing, &error)
    };
    match properties {
        Properties::Get { handle, key: Some(key) } => {
            let value = client.property(&handle, &key).await.map_err(failed("get", &handle))?;
            let text = show::lines([&value]);
            Answer::new(&PropertyValue { value }, text)
        }
        Properties::Get { handle, key: None } => {
            let all = client.properties(&handle).await.map_err(failed("get", &handle))?;
            Answer::new(&all, show::properties(&all))
        }
        Properties::Set { handle, key, value } => {
            client.set_property(&handle, &key, &value).await.map_err(failed("set", &handle))?;
            Answer::done()
        }
        Properties::Remove { handle, key } => {
            client.remove_property(&handle, &key).await.map_err(failed("remove", &handle))?;
            Answer::done()
        }
    }
}

/// Goes on after a failure, so that one bad handle does not keep the others.
async fn destroy(client: &Client, handles: Vec<String>) -> Result<Answer, Failure> {
    let mut destroyed = Vec::new();
    let mut any_failed = false;
    for handle in handles {
        match client.destroy(&handle).await {
            Ok(()) => destroyed.push(handle),
            Err(error) => {
                Failure::new(format!("destroy {handle}"), &error).tell();
                any_failed = true;
            }
        }
    }
    if any_failed {
        return Err(Failure::AlreadyTold);
    }
    Answer::new(&json!({ "destroyed": destroyed }), "")
}

fn spec(create: Create) -> ContainerSpec {
    ContainerSpec {
        handle: create.handle,
        rootfs: create.rootfs,
        image: ImageRef { uri: create.image, ..ImageRef::default() },
        properties: create.properties.into_iter().collect(),
        env: create.env,
        network: create.network,
        limits: Limits {
            memory: MemoryLimits { limit_in_bytes: create.memory_limit },
            pid: PidLimits { max: create.pids },
            ..Limits::default()
        },
        net_in: create.net_in,
        net_out: create.net_out,
        privileged: create.privileged,
        grace_time: create.grace_time,
        bind_mounts: create.bind,
    }
}

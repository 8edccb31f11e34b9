//! Free-form properties.

use protocol::{Error, Properties, Result};

use crate::world::{World, properties};

/// The error of a property that is not set. Its type is lost on the wire, its text is not.
#[track_caller]
fn assert_missing<T: std::fmt::Debug>(result: Result<T>, key: &str) {
    let text = result.expect_err("no property").to_string();
    assert_eq!(text, Error::PropertyNotFound { key: key.into() }.to_string());
}

/// One by one, all, and in `info`.
pub async fn those_of_the_spec_are_there(world: &World) {
    let given = properties(&[("executor:owner", "cell"), ("network.policy", "")]);
    let handle = world.create_with(|spec| spec.properties.clone_from(&given)).await;
    assert_eq!(world.backend().properties(&handle).await, Ok(given.clone()));
    assert_eq!(world.backend().property(&handle, "executor:owner").await, Ok("cell".into()));
    assert_eq!(world.backend().property(&handle, "network.policy").await, Ok(String::new()));
    assert_eq!(world.backend().info(&handle).await.expect("info").into_value().properties, Some(given));
}

/// The last value counts.
pub async fn set_get_and_remove(world: &World) {
    let handle = world.create().await;
    let backend = world.backend();
    assert_eq!(backend.properties(&handle).await, Ok(Properties::new()));
    for value in ["first", "second"] {
        backend.set_property(&handle, "key", value).await.expect("set");
        assert_eq!(backend.property(&handle, "key").await, Ok(value.into()));
    }
    assert_eq!(backend.remove_property(&handle, "key").await, Ok(()));
    assert_eq!(backend.properties(&handle).await, Ok(Properties::new()));
    assert_missing(backend.property(&handle, "key").await, "key");
}

/// When read and when removed.
pub async fn a_missing_one_is_named(world: &World) {
    let handle = world.create().await;
    for key in ["zz", "a/b c"] {
        assert_missing(world.backend().property(&handle, key).await, key);
        assert_missing(world.backend().remove_property(&handle, key).await, key);
    }
}

/// Whatever a path or a query would make of it.
pub async fn any_key_and_value_is_kept(world: &World) {
    let handle = world.create().await;
    let backend = world.backend();
    let odd = ["a:b", "a.b", ".", "..", "a/b", "/", "a b", "a+b", "a%2Fb", "ключ", "a?b=c&d#e", "<&>", "\""];
    for key in odd {
        backend.set_property(&handle, key, &format!("value of {key}")).await.expect(key);
    }
    for key in odd {
        assert_eq!(backend.property(&handle, key).await, Ok(format!("value of {key}")), "{key}");
    }
    assert_eq!(backend.properties(&handle).await.expect("properties").len(), odd.len());
    for key in odd {
        backend.remove_property(&handle, key).await.expect(key);
    }
    assert_eq!(backend.properties(&handle).await, Ok(Properties::new()));
}

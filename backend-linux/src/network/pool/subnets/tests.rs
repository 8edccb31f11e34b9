use std::collections::HashMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::network::pool::subnet::parse;

fn network(text: &str) -> Ipv4Network {
    text.parse().unwrap()
}

fn pool(text: &str) -> SubnetPool {
    SubnetPool::new(network(text), &[]).unwrap()
}

fn take(pool: &mut SubnetPool, named: &str, owner: &str) -> Result<Place, Error> {
    pool.take_named(parse(named).unwrap(), &[], owner)
}

fn place(subnet: &str, address: &str) -> Place {
    Place { subnet: network(subnet).try_into().unwrap(), address: address.parse().unwrap() }
}

#[test]
fn the_host_has_the_first_address_and_the_container_the_second() {
    let first = pool("10.254.0.0/22").take_next("a").unwrap();
    assert_eq!(first, place("10.254.0.0/30", "10.254.0.2"));
    assert_eq!(first.subnet.host_address(), Ipv4Addr::new(10, 254, 0, 1));
}

#[test]
fn a_pool_has_as_many_subnets_as_fit_and_then_says_that_it_is_empty() {
    let mut pool = pool("10.254.0.9/29");
    assert_eq!(pool.capacity(), 2);
    assert_eq!(pool.take_next("a").unwrap(), place("10.254.0.8/30", "10.254.0.10"));
    assert_eq!(pool.take_next("b").unwrap(), place("10.254.0.12/30", "10.254.0.14"));
    let error = pool.take_next("c").unwrap_err();
    assert_eq!(error.to_string(), "no free subnet: all 2 of the pool 10.254.0.8/29 are in use");
    assert_eq!(pool.in_use(), 2);
}

#[test]
fn a_pool_that_holds_no_subnet_or_a_part_of_the_hosts_networks_is_refused() {
    for wrong in ["10.0.0.0/31", "10.0.0.0/32", "0.0.0.0/0"] {
        assert!(SubnetPool::new(network(wrong), &[]).is_err(), "{wrong}");
    }
    for host in ["10.254.0.9/32", "10.254.3.0/24", "10.0.0.0/8"] {
        let refused = SubnetPool::new(network("10.254.0.0/22"), &[network(host)]).unwrap_err();
        assert!(refused.to_string().starts_with("network-pool: 10.254.0.0/22 overlaps"), "{refused}");
    }
    assert!(SubnetPool::new(network("10.254.0.0/22"), &[network("10.254.4.0/24")]).is_ok());
}

#[test]
fn a_subnet_of_the_pool_or_of_the_hosts_networks_cannot_be_named() {
    let mut pool = pool("10.254.0.0/22");
    for wrong in ["10.254.0.8/30", "10.254.3.254", "10.0.0.0/8", "192.0.2.0/30", "192.0.0.0/16"] {
        let named = parse(wrong).unwrap();
        let error = pool.take_named(named, &[network("192.0.2.0/24")], "a").unwrap_err();
        assert!(matches!(error, Error::Invalid { field: "network", .. }), "{wrong}: {error}");
    }
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn containers_share_a_named_subnet_each_with_an_address_of_its_own() {
    let mut pool = pool("10.254.0.0/22");
    assert_eq!(take(&mut pool, "10.1.2.0/29", "a").unwrap().address, Ipv4Addr::new(10, 1, 2, 2));
    assert_eq!(take(&mut pool, "10.1.2.3/29", "b").unwrap().address, Ipv4Addr::new(10, 1, 2, 3));
    let taken = take(&mut pool, "10.1.2.3/29", "c").unwrap_err();
    assert_eq!(taken.to_string(), "network: address 10.1.2.3 of subnet 10.1.2.0/29 is in use");
    for expected in 4..=6 {
        let next = take(&mut pool, "10.1.2.0/29", "c").unwrap();
        assert_eq!(next.address, Ipv4Addr::new(10, 1, 2, expected));
    }
    let full = take(&mut pool, "10.1.2.0/29", "c").unwrap_err();
    assert_eq!(full.to_string(), "network: all 5 addresses of subnet 10.1.2.0/29 are in use");
    assert_eq!((pool.in_use(), pool.capacity()), (1, 256));
}

#[test]
fn a_named_subnet_that_overlaps_another_without_being_equal_is_refused() {
    let mut pool = pool("10.254.0.0/22");
    take(&mut pool, "10.1.2.0/24", "a").unwrap();
    for wrong in ["10.1.2.0/25", "10.1.2.128/30", "10.1.0.0/16", "10.1.2.0/23", "10.1.2.2"] {
        let error = take(&mut pool, wrong, "b").unwrap_err();
        assert!(matches!(error, Error::SubnetOverlaps { .. }), "{wrong}: {error}");
    }
    for right in ["10.1.1.0/24", "10.1.3.0/24"] {
        assert!(take(&mut pool, right, "b").is_ok(), "{right}");
    }
}

#[test]
fn a_shared_subnet_ends_with_its_last_holder() {
    let mut pool = pool("10.254.0.0/22");
    let first = take(&mut pool, "10.1.2.0/24", "a").unwrap();
    let second = take(&mut pool, "10.1.2.0/24", "b").unwrap();
    pool.give_back(first, "a");
    assert!(take(&mut pool, "10.1.0.0/16", "c").is_err());
    // The address that was free longest comes first.
    assert_eq!(take(&mut pool, "10.1.2.0/24", "a").unwrap().address, Ipv4Addr::new(10, 1, 2, 4));
    pool.give_back(place("10.1.2.0/24", "10.1.2.4"), "a");
    assert!(pool.quarantine(second, "b"));
    assert!(take(&mut pool, "10.1.0.0/16", "c").is_err(), "the link is still there");
    pool.give_back(second, "b");
    assert!(take(&mut pool, "10.1.0.0/16", "c").is_ok());
}

#[test]
fn a_quarantined_address_is_nobodys_until_it_is_given_back() {
    let mut pool = pool("10.254.0.0/30");
    let first = pool.take_next("a").unwrap();
    assert!(!pool.quarantine(first, "b"));
    assert!(pool.quarantine(first, "a"));
    assert!(pool.quarantine(first, "a"));
    assert_eq!((pool.in_use(), pool.quarantined()), (0, 1));
    assert!(pool.take_next("b").is_err());
    assert!(pool.take_exactly(first, "a").is_err());
    pool.give_back(first, "b");
    assert!(pool.take_next("b").is_err());
    pool.give_back(first, "a");
    assert_eq!(pool.take_next("b").unwrap(), first);
    pool.give_back(first, "a");
    assert_eq!(pool.in_use(), 1);
}

#[test]
fn a_named_address_whose_link_is_just_going_is_told_apart_from_one_in_use() {
    let mut pool = pool("10.254.0.0/22");
    let first = take(&mut pool, "10.1.2.0/30", "a").unwrap();
    pool.quarantine(first, "a");
    for named in ["10.1.2.0/30", "10.1.2.2"] {
        assert!(matches!(take(&mut pool, named, "b"), Err(Error::Leaving { .. })), "{named}");
    }
}

#[test]
fn a_container_of_an_earlier_pool_keeps_its_subnet_from_the_new_one() {
    let mut pool = pool("10.254.0.0/28");
    let old = place("10.254.0.0/29", "10.254.0.5");
    pool.take_exactly(old, "old").unwrap();
    pool.take_exactly(old, "old").unwrap();
    assert!(pool.take_exactly(old, "another").is_err());
    assert!(pool.take_exactly(place("10.254.0.0/29", "10.254.0.1"), "a").is_err(), "the gateway");
    assert_eq!(pool.take_next("a").unwrap().subnet.to_string(), "10.254.0.8/30");
    assert_eq!(pool.take_next("b").unwrap().subnet.to_string(), "10.254.0.12/30");
    assert!(pool.take_next("c").is_err());
    pool.give_back(old, "old");
    assert_eq!(pool.take_next("c").unwrap().subnet.to_string(), "10.254.0.0/30");
    assert_eq!(pool.take_next("d").unwrap().subnet.to_string(), "10.254.0.4/30");
}

/// What a model of the pool knows: who has which address, and whether it waits for its link to go.
type Model = HashMap<Place, (String, bool)>;

fn overlaps_another(model: &Model, place: Place) -> bool {
    let network = Ipv4Network::from(place.subnet);
    model
        .keys()
        .any(|other| other.subnet != place.subnet && Ipv4Network::from(other.subnet).overlaps(network))
}

proptest! {
    #[test]
    fn no_address_has_two_owners_and_no_subnets_overlap(steps in vec((0u8..6, 0u8..10, 0usize..9), 0..200)) {
        // Four subnets of the pool, and beside it others that overlap each other.
        let names = [
            "10.1.0.0/24", "10.1.0.2/24", "10.1.0.3/24", "10.1.0.0/30", "10.1.0.6/29", "10.1.0.0/29", "10.1.1.0/30",
            "10.0.0.0/8", "10.1.1.2",
        ];
        let mut pool = pool("10.254.0.0/28");
        let mut model = Model::new();
        for (step, owner, index) in steps {
            let owner = format!("owner{owner}");
            let mut held: Vec<Place> = model.keys().copied().collect();
            held.sort_by_key(|place| (place.address, place.subnet.base()));
            let some = held.get(index).copied();
            match (step, some) {
                (0, _) => match pool.take_next(&owner) {
                    Ok(place) => prop_assert!(model.insert(place, (owner, false)).is_none()),
                    Err(_) => prop_assert_eq!(held.iter().filter(|place| pool.id(place.subnet).is_some()).count(), 4),
                },
                (1, _) => if let Ok(place) = take(&mut pool, names[index], &owner) {
                    prop_assert!(!overlaps_another(&model, place));
                    prop_assert!(parse(names[index]).unwrap().address.is_none_or(|address| address == place.address));
                    prop_assert!(model.insert(place, (owner, false)).is_none());
                } else {
                    let named = parse(names[index]).unwrap();
                    let place = Place {
                        subnet: named.subnet,
                        address: named.address.unwrap_or(named.subnet.container_address()),
                    };
                    let of_pool = Ipv4Network::from(named.subnet).overlaps(network("10.254.0.0/28"));
                    prop_assert!(of_pool || overlaps_another(&model, place) || model.contains_key(&place));
                },
                (2, Some(place)) => {
                    let may = model[&place].0 == owner;
                    prop_assert_eq!(pool.quarantine(place, &owner), may);
                    if may { model.insert(place, (owner, true)); }
                }
                (3, Some(place)) => {
                    let may = model[&place] == (owner.clone(), false);
                    prop_assert_eq!(pool.take_exactly(place, &owner).is_ok(), may);
                    prop_assert_eq!(pool.is_held(place, &owner), may);
                }
                (_, Some(place)) => {
                    pool.give_back(place, &owner);
                    if model[&place].0 == owner { model.remove(&place); }
                }
                (_, None) => {}
            }
            prop_assert_eq!(pool.quarantined(), model.values().filter(|(_, quarantined)| *quarantined).count());
            let subnets: std::collections::HashSet<_> =
                model.iter().filter(|(_, (_, quarantined))| !quarantined).map(|(place, _)| place.subnet).collect();
            prop_assert_eq!(pool.in_use(), subnets.len());
        }
        // Everything given back, the pool is whole again.
        for (place, (owner, _)) in model {
            pool.give_back(place, &owner);
        }
        prop_assert!((0..4).all(|owner| pool.take_next(&owner.to_string()).is_ok()));
    }
}

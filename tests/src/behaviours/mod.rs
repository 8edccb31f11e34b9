//! What every Garden backend does: named behaviours, each written once against the seam.
//!
//! Programs are named as busybox names them: real root filesystems hold busybox, the fake knows the same command
//! lines. A behaviour that does not apply to a column says so ([`World::skip`](crate::world::World::skip)).

pub mod creates;
pub mod errors;
pub mod extra_processes;
pub mod files;
pub mod grace;
pub mod kernel;
pub mod lifecycle;
pub mod limits;
pub mod network;
pub mod network_apart;
pub mod network_ipv6;
pub mod network_load;
pub mod network_names;
pub mod network_open;
pub mod network_ports;
pub mod network_rules;
mod packets;
pub mod processes;
pub mod properties;
pub mod streams;

/// Hands the table of behaviours to a macro: `theme { name, … } …`.
#[macro_export]
macro_rules! for_each_behaviour {
    ($column:ident) => {
        $crate::for_each_network_behaviour! { $column
            lifecycle {
                ping_answers,
                capacity_tells_what_there_is,
                create_makes_up_a_handle,
                create_takes_the_handle_given,
                create_refuses_a_handle_in_use,
                of_two_creates_at_once_one_wins,
                create_refuses_handles_that_could_escape,
                create_refuses_two_root_filesystems,
                create_refuses_a_root_filesystem_that_is_missing,
                list_shows_what_was_created,
                list_shows_each_change_at_once,
                list_filters_by_all_properties_given,
                info_tells_state_and_addresses,
                destroy_forgets_the_container,
                destroy_refuses_an_unknown_handle,
                of_two_destroys_at_once_one_wins,
                destroy_ends_processes,
                a_handle_can_be_used_again,
                stop_ends_processes_and_keeps_files,
                stop_kills_what_ignores_sigterm,
                stop_with_kill_does_not_ask,
                grace_time_is_kept,
                no_more_containers_than_allowed,
            }
            creates {
                all_that_the_spec_asks_for_is_there,
                one_that_fails_names_what_failed_and_leaves_nothing,
                one_that_fails_gives_its_ports_back,
                wrong_fields_are_named,
            }
            grace {
                a_container_goes_when_it_is_over,
                an_open_stream_holds_the_clock,
                a_request_starts_the_clock_anew,
                zero_means_for_ever,
            }
            processes {
                output_and_exit_status,
                exit_statuses_of_true_and_false,
                sigterm_ends_with_143,
                sigkill_ends_with_137,
                sigkill_reaches_what_ignores_sigterm,
                sigkill_reaches_a_process_whose_input_was_closed,
                a_signal_reaches_a_process_straight_after_its_start,
                a_signal_to_an_ended_process_does_nothing,
                an_id_is_made_up,
                an_id_stays_taken,
                running_processes_are_in_info,
                a_missing_executable_has_its_own_error,
                an_unknown_user_is_named,
                a_process_runs_as_its_user,
                the_environment_is_the_containers_then_the_processs,
                the_environment_has_defaults,
                the_working_directory_is_home_or_as_given,
                many_processes_at_once,
                out_of_memory_is_an_event_before_the_exit_status,
                a_program_is_looked_up_in_the_path_of_the_process,
                a_working_directory_out_of_reach_is_refused,
                a_process_outlives_its_client,
                bind_mounts_without_an_image_are_refused,
                wrong_fields_are_named,
            }
            kernel {
                users_and_groups_come_from_the_containers_files,
                root_needs_no_passwd_file,
                a_later_variable_takes_the_first_ones_place,
                a_signals_number_is_in_the_exit_status,
                resource_limits_are_those_of_the_spec,
                a_resource_limit_that_cannot_be_set_is_named,
                stop_asks_children_too,
                streams_end_with_a_killed_process,
                root_owns_what_root_owns_in_the_image,
                a_half_made_container_is_listed_on_request_only,
                extended_attributes_go_in_and_come_out,
                the_usual_devices_are_there,
                what_tells_of_the_host_is_masked_or_read_only,
            }
            streams {
                input_is_echoed_until_its_end,
                input_is_binary_safe,
                an_output_that_is_not_read_on_holds_up_nothing_else,
                an_output_that_is_never_opened_holds_up_nothing,
                much_input_arrives,
                much_output_arrives,
                output_arrives_in_its_order,
                two_readers_of_an_output_each_get_everything,
                output_can_be_read_after_the_exit,
                output_can_be_opened_long_after_the_exit,
                a_client_that_does_not_read_holds_up_its_own_process_only,
                output_can_be_read_again,
                attach_to_an_ended_process_gives_its_exit_status,
                attach_to_an_unknown_process_is_refused,
                an_attached_client_gets_what_comes_from_then_on,
                an_attached_client_can_write_and_signal,
                input_to_an_ended_process_is_dropped,
            }
            files {
                what_went_in_comes_out,
                a_program_sees_what_went_in,
                what_a_program_wrote_comes_out,
                files_belong_to_the_user,
                parents_are_made_and_belong_to_the_user,
                paths_are_relative_to_home,
                a_gzipped_tar_goes_in,
                without_a_slash_out_comes_the_directory,
                with_a_slash_out_come_its_contents,
                a_tar_cut_short_is_refused,
                what_is_no_tar_is_refused,
                a_body_that_breaks_off_is_refused,
                a_user_without_permission_is_refused,
                an_unknown_user_is_refused,
                a_missing_path_is_refused,
                a_tar_that_leads_out_of_its_place_is_refused,
                links_are_followed_inside_the_container,
                containers_do_not_share_what_they_write,
            }
            properties {
                those_of_the_spec_are_there,
                set_get_and_remove,
                a_missing_one_is_named,
                any_key_and_value_is_kept,
            }
            limits {
                memory_is_reported_as_given,
                cpu_is_reported_as_given,
                a_cpu_weight_is_reported_as_given,
                disk_is_reported_as_given,
                bandwidth_is_reported_as_given,
                no_limit_is_zero,
                metrics_are_sane,
                metrics_tell_limits,
                bulk_metrics_tell_of_unknown_handles,
                bulk_info_tells_of_unknown_handles,
            }
            extra_processes {
                a_limit_of_its_own_holds_it_alone,
                the_containers_limit_holds_those_without_their_own,
                bulk_metrics_have_it_under_its_id,
            }
            errors {
                every_operation_names_an_unknown_handle,
            }
        }
    };
}

/// The same of the themes that are about the network, behind those that are given.
#[macro_export]
macro_rules! for_each_network_behaviour {
    ($column:ident $($others:tt)*) => {
        $column! {
            $($others)*
            network {
                a_port_comes_from_the_pool,
                ports_given_are_kept,
                container_port_zero_is_the_hosts,
                a_host_port_is_mapped_once,
                ports_of_the_spec_are_mapped,
                a_ports_number_comes_back,
                addresses_differ,
                outbound_rules_are_taken,
                a_mapped_port_leads_into_the_container,
                each_container_has_a_subnet_of_four_addresses,
                a_spec_names_a_subnet_or_an_address,
                addresses_that_no_container_can_have_are_refused,
                subnets_that_overlap_are_refused,
                an_address_comes_back,
                links_are_as_wide_as_the_hosts_uplink,
            }
            network_apart {
                containers_of_other_subnets_are_out_of_reach,
                containers_that_share_a_subnet_reach_each_other,
                the_host_is_out_of_reach,
                link_local_addresses_lead_nowhere,
                a_packet_needs_the_address_of_its_container,
            }
            network_open {
                the_host_is_within_reach,
                other_containers_are_out_of_reach_all_the_same,
            }
            network_ipv6 {
                each_container_has_an_address_of_its_own,
                the_world_is_within_reach,
                others_are_out_of_reach,
                rules_open_holes_in_denied_networks,
            }
            network_load {
                http_and_websockets_go_through_a_published_port,
                traffic_is_counted_by_container,
            }
            network_rules {
                the_world_is_within_reach,
                denied_networks_are_out_of_reach,
                a_rule_opens_a_hole,
                a_rule_is_of_its_protocol,
                a_rule_is_of_its_networks_and_ports,
                a_rule_is_of_its_icmp_type,
                a_rule_opens_nothing_but_denied_networks,
                a_published_port_is_reached_by_the_rules_for_the_hosts_address,
                rules_can_be_replaced_as_a_whole,
                a_connection_outlives_its_rule,
                many_rules_come_in_one_call,
                rules_that_make_no_sense_are_refused,
                rules_go_with_their_container,
            }
            network_ports {
                a_published_port_is_within_everybodys_reach,
                containers_reach_their_own_and_anothers_published_port,
                a_port_goes_with_its_container,
                the_hosts_loopback_is_closed_to_others,
            }
            network_names {
                containers_ask_the_hosts_name_servers,
                hosts_are_known_by_name,
            }
        }
    };
}

macro_rules! names_of {
    ($($theme:ident { $($name:ident,)* })*) => {
        &[$($(concat!(stringify!($theme), "::", stringify!($name)),)*)*]
    };
}

/// All behaviours, as `theme::name`.
pub const ALL: &[&str] = for_each_behaviour!(names_of);

#[cfg(test)]
mod tests {
    const TABLE: &str = include_str!("mod.rs");
    const SOURCES: &[(&str, &str)] = &[
        ("creates", include_str!("creates.rs")),
        ("errors", include_str!("errors.rs")),
        ("extra_processes", include_str!("extra_processes.rs")),
        ("files", include_str!("files.rs")),
        ("grace", include_str!("grace.rs")),
        ("kernel", include_str!("kernel.rs")),
        ("lifecycle", include_str!("lifecycle.rs")),
        ("limits", include_str!("limits.rs")),
        ("network", include_str!("network.rs")),
        ("network_apart", include_str!("network_apart.rs")),
        ("network_ipv6", include_str!("network_ipv6.rs")),
        ("network_load", include_str!("network_load.rs")),
        ("network_names", include_str!("network_names.rs")),
        ("network_open", include_str!("network_open.rs")),
        ("network_ports", include_str!("network_ports.rs")),
        ("network_rules", include_str!("network_rules.rs")),
        ("processes", include_str!("processes.rs")),
        ("properties", include_str!("properties.rs")),
        ("streams", include_str!("streams.rs")),
    ];

    #[test]
    fn every_behaviour_is_in_the_table() {
        for (theme, source) in SOURCES {
            let section = TABLE.split(&format!("            {theme} {{\n")).nth(1).expect(theme);
            let section = section.split('}').next().expect(theme);
            let written = source.lines().filter_map(|line| line.strip_prefix("pub async fn "));
            let written: Vec<_> = written.filter_map(|rest| rest.split('(').next()).collect();
            assert!(!written.is_empty(), "{theme}");
            for name in written {
                let listed = section.lines().filter(|line| line.trim() == format!("{name},")).count();
                assert_eq!(listed, 1, "{theme}::{name}");
            }
        }
    }
}

//! What every runtime does, tried with each of them: as processes, as processes that are forked, and as containers where there is a Docker daemon.
//! Agents have the real runner.

mod docker;
pub mod docker_image;
mod logs;
mod network;
mod starts;
mod stops;
pub mod test_runtime;

/// Makes a test of each case for each runtime.
macro_rules! cases {
    ($($module:ident: $($case:ident),+;)+) => {
        mod processes {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    super::$module::$case(super::test_runtime::Kind::Process).await;
                }
            )+)+
        }

        mod forked {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    super::$module::$case(super::test_runtime::Kind::Forked).await;
                }
            )+)+
        }

        mod containers {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    if super::docker_image::is_there() {
                        super::$module::$case(super::test_runtime::Kind::Docker).await;
                    }
                }
            )+)+
        }
    };
}

cases! {
    starts:
        an_agent_answers_and_is_removed,
        a_failed_start_tells_why_without_secrets,
        a_start_may_end_in_any_way,
        a_start_that_hangs_ends_with_its_stack,
        a_slow_start_becomes_ready,
        a_crashed_agent_starts_again_at_the_same_address,
        a_proven_agent_is_tried_again,
        an_agent_without_memory_ends_with_that_cause,
        a_start_can_be_cancelled;
    stops:
        a_stop_waits_for_the_request_in_flight,
        an_agent_that_ignores_a_stop_is_killed_after_its_grace,
        no_request_is_lost_in_a_swap,
        an_agent_that_is_killed_from_outside_starts_again;
    logs:
        a_flood_is_kept_within_bounds_and_masked,
        the_last_words_of_a_run_are_in_the_log;
    network:
        the_working_directory_is_the_agents_own_and_new_for_each_run,
        a_closed_network_leads_to_egress_and_nowhere_else,
        egress_knows_the_agent_by_its_connection;
}

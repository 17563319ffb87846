// The commands of the program `wideep`: each add_* declares one subcommand with its flags and runs
// it. A command parses, wires and prints; what it does is behind the front doors of the other
// modules.
#pragma once

#include <CLI/CLI.hpp>

#include "base/status.h"

namespace wideep::cli {

// Ends the command: on an error prints its lines to standard error and leaves with its exit code.
void finish(const Status& status);

// The value, or finish(status).
template <typename T>
T value_or_finish(Result<T> result) {
  finish(result.status());
  return std::move(result).value();
}

void add_bench(CLI::App& parent);
void add_config(CLI::App& parent);
void add_eplb_import(CLI::App& parent);
void add_generate(CLI::App& parent);
void add_eval(CLI::App& parent);
void add_info(CLI::App& parent);
void add_tokenize(CLI::App& parent);

// Subcommands of `wideep bench`.
void add_bench_all_to_all(CLI::App& bench);
void add_bench_moe(CLI::App& bench);
void add_bench_ops(CLI::App& bench);
void add_bench_prepare(CLI::App& bench);
void add_bench_step(CLI::App& bench);

// Subcommands of `wideep eplb`.
void add_eplb_evaluate(CLI::App& eplb);
void add_eplb_generate(CLI::App& eplb);
void add_eplb_replay(CLI::App& eplb);
void add_eplb_report(CLI::App& eplb);
void add_eplb_report_cooccurrence(CLI::App& eplb);
void add_eplb_report_send_ranks(CLI::App& eplb);
void add_eplb_watch(CLI::App& eplb);

}  // namespace wideep::cli

// `wideep eplb import`: a statistics folder from what another system recorded.
#include <fmt/format.h>

#include <map>
#include <memory>
#include <string>

#include "base/progress.h"
#include "cli/commands.h"
#include "eplb/import.h"

namespace wideep::cli {
namespace {

using eplb::LoadFormat;

struct ImportFlags {
  std::string from;
  std::string batching = "mixed";
  std::string output;
  eplb::ImportSource source;
  eplb::ImportOptions options;
};

void run_import(const ImportFlags& flags) {
  ProgressBar bar("sampling", int64_t{flags.options.num_ranks} * flags.options.num_iterations,
                  "iterations");
  const eplb::ImportSummary summary = value_or_finish(
      eplb::import_statistics(flags.source, flags.options, flags.output, [&] { bar.add(); }));
  fmt::print("{}: {} ranks, {} iterations, {} layers, {} experts, top_k {}, {} tokens a rank\n",
             flags.output, flags.options.num_ranks, flags.options.num_iterations,
             summary.num_layers, summary.num_experts, summary.top_k, flags.options.tokens_per_rank);
}

}  // namespace

void add_eplb_import(CLI::App& parent) {
  auto flags = std::make_shared<ImportFlags>();
  CLI::App* command = parent.add_subcommand(
      "import", "Sample a statistics folder from a load or a trace of another system");
  eplb::ImportSource& source = flags->source;
  eplb::ImportOptions& options = flags->options;
  command->add_option("--from", flags->from, "What --input is")
      ->required()
      ->check(CLI::IsMember({"sglang", "trace", "csv"}));
  command->add_option("--input", source.paths, "File to read; several traces are put in a row")
      ->required();
  command->add_option("--output", flags->output, "Statistics folder to write: new, empty or older")
      ->required();
  command->add_option("--ranks", options.num_ranks, "EP size of the recording")
      ->capture_default_str();
  command->add_option("--iterations", options.num_iterations, "Iterations to record")
      ->capture_default_str();
  command->add_option("--tokens_per_rank", options.tokens_per_rank, "Tokens of a rank an iteration")
      ->capture_default_str();
  command->add_option("--top_k", options.top_k, "Experts a token; a trace has its own [8]");
  command->add_option("--seed", options.seed, "Seed of the samples")->capture_default_str();
  command->add_flag("--raw", options.raw, "Also write each token's expert ids");
  command
      ->add_option("--batching", flags->batching,
                   "Tokens of a rank, for traces: any (mixed: decode) or neighbours (sequence: "
                   "prefill)")
      ->check(CLI::IsMember({"mixed", "sequence"}))
      ->capture_default_str();
  command->add_option("--dataset", source.dataset, "For csv: only rows of this column `dataset`");
  command->add_option("--num_experts", source.num_experts,
                      "For traces: experts of the model [largest id + 1]");
  command
      ->add_option("--first_layer", source.first_layer,
                   "For traces: decoder layer of the first layer")
      ->capture_default_str();
  command->add_option("--threads", options.threads, "Threads, 0: all cores")->capture_default_str();
  command->callback([flags] {
    const std::map<std::string, LoadFormat> formats = {
        {"sglang", LoadFormat::kSglang}, {"trace", LoadFormat::kTrace}, {"csv", LoadFormat::kCsv}};
    flags->source.format = formats.at(flags->from);
    flags->options.batching = value_or_finish(eplb::parse_batching(flags->batching));
    run_import(*flags);
  });
}

}  // namespace wideep::cli

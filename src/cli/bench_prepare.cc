// wideep bench prepare-dataset: requests for wideep bench throughput and latency.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "config/model_config.h"
#include "engine/dataset_maker.h"

namespace wideep::cli {
namespace {

struct PrepareFlags {
  EngineFlags engine;
  std::vector<std::string> texts;  // files
  std::string output;
  engine::DatasetPlan plan;
};

Result<std::vector<engine::DatasetEntry>> make_entries(const PrepareFlags& flags) {
  const std::string folder = model_folder(flags.engine);
  engine::DatasetPlan plan = flags.plan;
  if (flags.texts.empty()) {
    ASSIGN_OR_RETURN(const ModelConfig model, read_model_config(folder));
    plan.vocab_size = model.vocab_size;
    if (plan.input.mean == 0) plan.input.mean = 128;
    return engine::random_dataset(plan);
  }
  if (plan.random_start && plan.input.mean == 0) {
    return Status::invalid_input(
        "--random_start: needs --input_mean: a piece of a text has a length");
  }
  std::vector<engine::TextList> lists;
  for (const std::string& path : flags.texts) {
    ASSIGN_OR_RETURN(const std::string file, read_file(path));
    ASSIGN_OR_RETURN(std::vector<std::string> texts, engine::parse_texts(file, path));
    lists.push_back({path, std::move(texts)});
  }
  ASSIGN_OR_RETURN(const tokenizer::Tokenizer tokenizer, tokenizer::Tokenizer::load(folder));
  return engine::text_dataset(plan, lists, tokenizer);
}

Status run(const PrepareFlags& flags) {
  ASSIGN_OR_RETURN(const std::vector<engine::DatasetEntry> entries, make_entries(flags));
  int64_t input = 0;
  int64_t output = 0;
  for (const engine::DatasetEntry& entry : entries) {
    input += std::ssize(entry.input_ids);
    output += entry.output_tokens;
  }
  const std::string text = engine::dataset_text(entries);
  if (flags.output.empty()) {
    fmt::print("{}", text);
  } else {
    RETURN_IF_ERROR(write_file(flags.output, text));
  }
  fmt::print(stderr, "{} requests: {} input and {} output tokens{}\n", entries.size(), input,
             output, flags.output.empty() ? "" : ", in " + flags.output);
  return Status::ok();
}

}  // namespace

void add_bench_prepare(CLI::App& bench) {
  auto flags = std::make_shared<PrepareFlags>();
  flags->plan.num_requests = 64;
  flags->plan.output.mean = 128;
  CLI::App* command =
      bench.add_subcommand("prepare-dataset", "Make a dataset: random prompts, or cut from texts");
  add_model_flags(*command, flags->engine);
  CLI::Option* texts = command->add_option(
      "--texts", flags->texts,
      "JSON list of texts, JSON object of such lists, or one text a line; may be "
      "repeated, each file for the same share of the requests, in this order; "
      "default: random tokens");
  command
      ->add_flag("--mix", flags->plan.mix,
                 "Requests take several --texts in turn, not one file after the other")
      ->needs(texts);
  command
      ->add_flag("--random_start", flags->plan.random_start,
                 "A prompt begins anywhere in its text: one that is used again gives another")
      ->needs(texts);
  command->add_option("--output", flags->output, "File; default: standard output");
  command->add_option("--num_requests", flags->plan.num_requests, "Requests")
      ->capture_default_str()
      ->check(CLI::Range(1, 100'000'000));
  const auto length = [&](const char* name, double& value, const char* description) {
    command->add_option(name, value, description)->check(CLI::Range(0.0, 1e8));
  };
  length("--input_mean", flags->plan.input.mean,
         "Tokens of a prompt; default: 128, of texts all they have");
  length("--input_stdev", flags->plan.input.stdev, "And their standard deviation; default: 0");
  length("--output_mean", flags->plan.output.mean, "Tokens of an answer; default: 128");
  length("--output_stdev", flags->plan.output.stdev, "And their standard deviation; default: 0");
  command->add_option("--seed", flags->plan.seed, "Of lengths and random tokens; default: 0");
  command->callback([flags] { finish(run(*flags)); });
}

}  // namespace wideep::cli

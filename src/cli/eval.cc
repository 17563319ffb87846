// wideep eval: prompts through a model, to hold against another implementation.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "engine/evaluation.h"

namespace wideep::cli {
namespace {

struct EvalFlags {
  EngineFlags engine;
  std::string prompts;
  std::string json;
  std::string rope_frequencies = "auto";
  int greedy = 24;
};

// A PyTorch module that was cast to its checkpoint's 16-bit type has its rotary frequencies rounded
// to it, also when it computes in float32 later: that is how references of such checkpoints are
// made. Quantised checkpoints are not cast but dequantised.
DType rope_dtype(const EvalFlags& flags, const ModelConfig& model) {
  if (flags.rope_frequencies != "auto") {
    return flags.rope_frequencies == "bf16" ? DType::kBF16 : DType::kF32;
  }
  return model.type == ModelType::kBf16 && !model.fp8_block ? DType::kBF16 : DType::kF32;
}

void describe(const engine::Evaluation& evaluation) {
  fmt::print("{:<24} {}\n", evaluation.name,
             evaluation.mean_nll ? fmt::format("{:9.5f}", *evaluation.mean_nll) : "        -");
}

Status eval_rank(const EvalFlags& flags, const EngineJob& job,
                 const std::vector<engine::EvaluationPrompt>& prompts, ThreadPool& pool,
                 dist::Communicator& world) {
  if (job.statistics) {
    return Status::invalid_input(
        "environment variable EXPERT_STATISTIC_ITER_RANGE: cannot act: eval has no iterations to "
        "count, and --json has each token's experts; unset it, or count with `wideep bench`");
  }
  engine::EvaluationJob evaluation;
  evaluation.folder = job.folder;
  evaluation.model = job.model;
  evaluation.engine = job.engine;
  evaluation.dtype = job.dtype;
  evaluation.device = job.device;
  evaluation.rope_frequency_dtype = rope_dtype(flags, job.model);
  evaluation.num_greedy = flags.greedy;
  ASSIGN_OR_RETURN(const std::vector<engine::Evaluation> results,
                   engine::evaluate(evaluation, prompts, pool, world));
  if (world.rank() != 0) return Status::ok();
  if (evaluation.rope_frequency_dtype == DType::kBF16) {
    fmt::print(stderr,
               "rotary frequencies are rounded to bf16, as in a PyTorch model cast to it; "
               "--rope_frequencies fp32 evaluates with those that the engine serves with\n");
  }
  RETURN_IF_ERROR(write_file(flags.json, engine::evaluations_json(results)));
  fmt::print("{:<24} {:>9}\n", "prompt", "mean nll");
  for (const engine::Evaluation& result : results) describe(result);
  fmt::print("results in {}\n", flags.json);
  return Status::ok();
}

void run(const EvalFlags& flags) {
  run_ranks(flags.engine, [&](const EngineJob& job, ThreadPool& pool, dist::Communicator& world) {
    ASSIGN_OR_RETURN(const std::string text, read_file(flags.prompts));
    ASSIGN_OR_RETURN(const std::vector<engine::EvaluationPrompt> prompts,
                     engine::parse_evaluation_prompts(text, flags.prompts));
    return eval_rank(flags, job, prompts, pool, world);
  });
}

}  // namespace

void add_eval(CLI::App& parent) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = parent.add_subcommand(
      "eval", "Likelihood, logits, greedy tokens and routing of prompts, as JSON");
  add_engine_flags(*command, flags->engine);
  command->add_option("--prompts", flags->prompts, R"(JSON list of {"name", "token_ids"})")
      ->required();
  command->add_option("--json", flags->json, "File for the results")->required();
  command->add_option("--greedy", flags->greedy, "Tokens to generate after each prompt")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  command
      ->add_option("--rope_frequencies", flags->rope_frequencies,
                   "Rotary frequencies: fp32, bf16 (as in a PyTorch model cast to bf16), or auto: "
                   "bf16 for checkpoints in bf16, fp32 for quantised ones")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}));
  command->callback([flags] { run(*flags); });
}

}  // namespace wideep::cli

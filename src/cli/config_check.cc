// wideep config check | keys: the configuration as it will be used, or everything that is wrong
// with it.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "config/config.h"

namespace wideep::cli {
namespace {

struct CheckArguments {
  std::string file;
  std::string model;
  EngineOverrides overrides;
};

void check(const CheckArguments& arguments) {
  std::optional<ModelConfig> model;
  if (!arguments.model.empty()) model = value_or_finish(read_model_config(arguments.model));
  const EngineConfig config = value_or_finish(
      load_engine_config(arguments.file, arguments.overrides, model ? &*model : nullptr));
  fmt::print("{}", engine_config_yaml(config));
}

void add_overrides(CLI::App& command, EngineOverrides& flags) {
  command.add_option("--tp,--tp_size", flags.tp, "tensor_parallel_size");
  command.add_option("--pp,--pp_size", flags.pp, "pipeline_parallel_size");
  command.add_option("--cp,--cp_size", flags.cp, "context_parallel_size");
  command.add_option("--moe_tp", flags.moe_tp, "moe_tensor_parallel_size");
  command.add_option("--ep,--ep_size", flags.ep, "moe_expert_parallel_size");
  command.add_option("--cluster_size", flags.cluster, "moe_cluster_parallel_size");
  command.add_option("--gpus_per_node", flags.gpus_per_node, "gpus_per_node");
  command.add_option("--max_batch_size", flags.max_batch_size, "max_batch_size");
  command.add_option("--max_num_tokens", flags.max_num_tokens, "max_num_tokens");
  command.add_option("--max_seq_len", flags.max_seq_len, "max_seq_len");
  command.add_option("--kv_cache_free_gpu_mem_fraction", flags.kv_cache_free_gpu_mem_fraction,
                     "kv_cache_config.free_gpu_memory_fraction");
}

}  // namespace

void add_config(CLI::App& parent) {
  CLI::App* config = parent.add_subcommand("config", "Check a configuration, list its keys");
  config->require_subcommand(1);

  auto arguments = std::make_shared<CheckArguments>();
  CLI::App* command =
      config->add_subcommand("check", "Print the resolved configuration, or every violation of it");
  command->add_option("file", arguments->file, "YAML file; none: the flags and the defaults");
  command->add_option("--model", arguments->model,
                      "Folder of the checkpoint (or its config.json), to check against");
  add_overrides(*command, arguments->overrides);
  command->callback([arguments] { check(*arguments); });

  config->add_subcommand("keys", "Print the table of all keys, as in docs/configuration.md")
      ->callback([] { fmt::print("{}", config_keys_markdown()); });
}

}  // namespace wideep::cli

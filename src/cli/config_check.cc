// wideep config check | keys: the configuration as it will be used, or everything that is wrong
// with it.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/engine_flags.h"
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
  add_override_flags(*command, arguments->overrides);
  command->callback([arguments] { check(*arguments); });

  config->add_subcommand("keys", "Print the table of all keys, as in docs/configuration.md")
      ->callback([] { fmt::print("{}", config_keys_markdown()); });
}

}  // namespace wideep::cli

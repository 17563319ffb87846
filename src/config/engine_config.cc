#include "config/engine_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/file.h"
#include "config/balancer_schema.h"
#include "config/check.h"
#include "config/engine_schema.h"

namespace wideep {
namespace {

constexpr int kDefaultGraphBatch = 128;

struct Override {
  const char* flag;
  const char* path;
  std::string value;
};

std::vector<Override> overrides_of(const EngineOverrides& flags) {
  std::vector<Override> list;
  const auto add = [&](const char* flag, const char* path, const auto& value) {
    if (value) list.push_back({flag, path, fmt::format("{}", *value)});
  };
  add("--tp", "tensor_parallel_size", flags.tp);
  add("--pp", "pipeline_parallel_size", flags.pp);
  add("--cp", "context_parallel_size", flags.cp);
  add("--moe_tp", "moe_tensor_parallel_size", flags.moe_tp);
  add("--ep", "moe_expert_parallel_size", flags.ep);
  add("--cluster_size", "moe_cluster_parallel_size", flags.cluster);
  add("--gpus_per_node", "gpus_per_node", flags.gpus_per_node);
  add("--max_batch_size", "max_batch_size", flags.max_batch_size);
  add("--max_num_tokens", "max_num_tokens", flags.max_num_tokens);
  add("--max_seq_len", "max_seq_len", flags.max_seq_len);
  add("--kv_cache_free_gpu_mem_fraction", "kv_cache_config.free_gpu_memory_fraction",
      flags.kv_cache_free_gpu_mem_fraction);
  add("--enable_attention_dp", "enable_attention_dp", flags.enable_attention_dp);
  add("--enable_chunked_prefill", "enable_chunked_prefill", flags.enable_chunked_prefill);
  if (flags.load_format) {
    const char* value = *flags.load_format == LoadFormat::kDummy ? "dummy" : "auto";
    list.push_back({"--load_format", "load_format", value});
  }
  return list;
}

// A flag's value goes through its key's own rule.
void apply(const Override& flag, Violations& violations, EngineConfig& config) {
  const Key<EngineConfig>* key = engine_schema().find(flag.path);
  const Result<YamlDocument> value = YamlDocument::parse(flag.value, flag.flag);
  CHECK(key != nullptr && value.is_ok());
  const size_t before = violations.size();
  key->read({flag.flag, violations, config.origins, /*has_lines=*/false}, flag.path, value->root(),
            config);
  if (violations.size() > before) violations.doubt(flag.path);
  const auto file = config.origins.find(flag.path);
  config.origins[flag.path] = {file == config.origins.end()
                                   ? flag.flag
                                   : fmt::format("{} over {}", flag.flag, file->second.place),
                               flag.path};
}

// Fills what follows from other values.
void complete(EngineConfig& config) {
  const auto given = [&](const char* path) { return config.origins.contains(path); };
  if (config.moe.load_balancer && !given("moe_config.backend")) {
    config.moe.backend = MoeBackend::kWideEp;
  }
  if (!given("max_batch_size")) {
    config.max_batch_size = std::min(config.max_batch_size, config.max_num_tokens);
  }
  if (!given("kv_cache_config.enable_partial_reuse") && !config.kv_cache.enable_block_reuse) {
    config.kv_cache.enable_partial_reuse = false;
  }
  if (config.parallel.context_parallel_size > 1 && !config.cp) config.cp.emplace();
  if (!config.cuda_graph) return;
  CudaGraphConfig& graph = *config.cuda_graph;
  if (graph.batch_sizes.empty()) {
    if (graph.max_batch_size == 0) {
      graph.max_batch_size = std::min(kDefaultGraphBatch, config.max_batch_size);
    }
    graph.batch_sizes = cuda_graph_batch_sizes(graph.max_batch_size, graph.enable_padding);
  } else {
    std::ranges::sort(graph.batch_sizes);
    graph.batch_sizes.erase(std::unique(graph.batch_sizes.begin(), graph.batch_sizes.end()),
                            graph.batch_sizes.end());
    if (graph.max_batch_size == 0) graph.max_batch_size = graph.batch_sizes.back();
  }
}

}  // namespace

Result<EngineConfig> parse_engine_config(std::string_view yaml, const std::string& name,
                                         const EngineOverrides& overrides,
                                         const ModelConfig* model) {
  ASSIGN_OR_RETURN(const YamlDocument document, YamlDocument::parse(yaml, name));
  EngineConfig config;
  Violations violations;
  engine_schema().read({name, violations, config.origins}, document.root(), config);
  for (const Override& flag : overrides_of(overrides)) apply(flag, violations, config);
  complete(config);
  add_cross_violations(config, model, violations);
  if (!violations.empty()) return violations.status();
  return config;
}

Result<EngineConfig> load_engine_config(const std::string& path, const EngineOverrides& overrides,
                                        const ModelConfig* model) {
  std::string text;
  if (!path.empty()) {
    ASSIGN_OR_RETURN(text, read_file(path, kYamlMaxBytes));
  }
  return parse_engine_config(text, path, overrides, model);
}

std::string engine_config_yaml(const EngineConfig& config) {
  return engine_schema().write(config, config.origins);
}

std::vector<int> cuda_graph_batch_sizes(int max_batch_size, bool enable_padding) {
  CHECK_GE(max_batch_size, 1);
  std::vector<int> sizes;
  const auto add_steps = [&](int begin, int end, int step) {
    for (int size = begin; size <= std::min(end, max_batch_size); size += step) {
      sizes.push_back(size);
    }
  };
  int power = 256;  // powers of two go on from here
  if (enable_padding) {
    for (const int size : {1, 2, 4}) add_steps(size, size, 1);
    add_steps(8, 128, 8);
    add_steps(192, 2048, 64);
    power = 4096;
  } else {
    add_steps(1, 32, 1);
    for (const int size : {64, 128}) add_steps(size, size, 1);
  }
  for (; power <= max_batch_size; power *= 2) sizes.push_back(power);
  if (sizes.back() != max_batch_size) sizes.push_back(max_batch_size);
  return sizes;
}

std::vector<KeyDoc> config_keys() {
  std::vector<KeyDoc> rows = engine_schema().docs();
  const auto legacy =
      std::ranges::find_if(rows, [](const KeyDoc& row) { return !row.target.empty(); });
  std::vector<KeyDoc> balancer = balancer_schema().docs();
  for (KeyDoc& row : balancer) row.path = "load_balancer." + row.path;
  rows.insert(legacy, std::make_move_iterator(balancer.begin()),
              std::make_move_iterator(balancer.end()));
  return rows;
}

std::string config_keys_markdown() {
  // '|' ends a cell.
  const auto cell = [](const std::string& text) {
    std::string escaped;
    for (const char c : text) {
      if (c == '|') escaped += '\\';
      escaped += c;
    }
    return escaped;
  };
  std::string keys = "| key | type | default | meaning |\n|---|---|---|---|\n";
  std::string legacy = "| older key | now |\n|---|---|\n";
  for (const KeyDoc& row : config_keys()) {
    if (row.target.empty()) {
      fmt::format_to(std::back_inserter(keys), "| `{}` | {} | `{}` | {} |\n", row.path,
                     cell(row.type), row.fallback, cell(row.doc));
    } else {
      fmt::format_to(std::back_inserter(legacy), "| `{}` | `{}`{} |\n", row.path, row.target,
                     row.doc.empty() ? "" : " (" + row.doc + ")");
    }
  }
  return keys + "\n" + legacy;
}

}  // namespace wideep

#include "engine/llm.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "tokenizer/stream_decoder.h"

namespace wideep::engine {
namespace {

class StreamDetokenizer : public Detokenizer {
 public:
  explicit StreamDetokenizer(const tokenizer::Tokenizer& tokenizer)
      : decoder_(tokenizer, {.skip_special_tokens = true}) {}

  // Vocabularies are padded: an id without a token, which only random weights choose, has no text.
  std::string add(int token) override {
    Result<std::string> text = decoder_.push(token);
    return text.is_ok() ? std::move(text).value() : "";
  }
  std::string finish() override { return decoder_.finish(); }

 private:
  tokenizer::StreamDecoder decoder_;
};

int64_t logits_bytes(const EngineConfig& engine, const ModelConfig& model) {
  return int64_t{engine.max_batch_size} * model.vocab_size * static_cast<int64_t>(sizeof(float));
}

}  // namespace

Status check_engine_can(const EngineConfig& config) {
  std::string refused;
  const auto refuse = [&](std::string_view key, std::string_view value, std::string_view why) {
    if (!refused.empty()) refused += '\n';
    refused += fmt::format("{}: {}: {}", key, value, why);
  };
  if (config.kv_cache.dtype == KvCacheType::kFp8) {
    refuse("kv_cache_config.dtype", "fp8",
           "the engine keeps keys and values in bf16 or fp32, as --dtype says");
  }
  if (config.speculative) {
    refuse("speculative_config", "MTP", "the engine generates one token a step");
  }
  if (config.cache_transceiver && config.cache_transceiver->backend) {
    refuse("cache_transceiver_config", "a map",
           "the engine does not move KV caches between servers");
  }
  if (config.parallel.enable_lm_head_tp_in_adp) {
    refuse("enable_lm_head_tp_in_adp", "true", "attention-DP ranks each have the whole head");
  }
  if (config.cp && config.cp->cp_type == CpType::kRing) {
    refuse("cp_config.cp_type", "ring", "the engine gathers");
  }
  if (config.attention_dp.enable_balance) {
    refuse("attention_dp_config.enable_balance", "true",
           "the engine starts prompts as soon as they fit");
  }
  return refused.empty() ? Status::ok() : Status::invalid_input(refused);
}

Llm::Llm(LlmOptions options, Mapping mapping)
    : options_(std::move(options)), mapping_(std::move(mapping)) {}

Result<std::unique_ptr<Llm>> Llm::create(LlmOptions options, dist::Communicator& world) {
  CHECK(options.pool != nullptr);
  RETURN_IF_ERROR(check_engine_can(options.engine));
  ASSIGN_OR_RETURN(Mapping mapping, Mapping::create(options.engine.parallel));
  auto llm = std::unique_ptr<Llm>(new Llm(std::move(options), std::move(mapping)));
  ASSIGN_OR_RETURN(llm->groups_, dist::make_groups(llm->mapping_, world));
  ASSIGN_OR_RETURN(llm->device_,
                   RankDevice::open(llm->options_.device, *llm->options_.pool, world));
  RETURN_IF_ERROR(llm->load_tokenizer());
  RETURN_IF_ERROR(llm->load_model());
  RETURN_IF_ERROR(llm->plan_memory(world));
  RETURN_IF_ERROR(llm->make_recorder(world));
  RETURN_IF_ERROR(llm->make_replica());
  return llm;
}

Status Llm::load_tokenizer() {
  eos_token_ids_ = options_.model.eos_token_ids;
  if (!is_leader() || !path_exists(join_path(options_.folder, "tokenizer.json"))) {
    return Status::ok();
  }
  ASSIGN_OR_RETURN(tokenizer_, tokenizer::Tokenizer::load(options_.folder));
  if (!tokenizer_->eos_ids().empty()) eos_token_ids_ = tokenizer_->eos_ids();
  return Status::ok();
}

Status Llm::load_model() {
  ASSIGN_OR_RETURN(const auto source,
                   models::open_weights(options_.engine.load_format, options_.folder,
                                        options_.model, options_.on_read));
  ASSIGN_OR_RETURN(model_, models::Model::create(device_->stream(),
                                                 {.config = &options_.model,
                                                  .engine = &options_.engine,
                                                  .mapping = &mapping_,
                                                  .groups = &groups_,
                                                  .source = source.get(),
                                                  .on_read_planned = options_.on_read_planned,
                                                  .weight_dtype = options_.dtype,
                                                  .kv_dtype = models::unquantized(options_.dtype),
                                                  .available_bytes = device_->available_bytes()}));
  return Status::ok();
}

int Llm::max_seq_len() const {
  return options_.engine.max_seq_len.value_or(options_.model.max_position_embeddings);
}

Status Llm::plan_memory(dist::Communicator& world) {
  const EngineConfig& engine = options_.engine;
  const models::ModelMemory memory = model_->memory();
  ASSIGN_OR_RETURN(
      memory_plan_,
      engine::plan_memory(
          {.available_bytes = device_->available_bytes(),
           .weight_bytes = memory.weights,
           .activation_bytes = memory.activations + logits_bytes(engine, options_.model),
           .kv_bytes_per_token = model_->kv_spec().bytes_per_token(),
           .page_size = engine.kv_cache.tokens_per_block,
           .cp = mapping_.cp(),
           .free_memory_fraction = engine.kv_cache.free_gpu_memory_fraction,
           .max_tokens = engine.kv_cache.max_tokens,
           .max_batch_size = engine.max_batch_size,
           .max_seq_len = max_seq_len()}));
  // The least of all ranks, so that a page has the same number on all of them.
  int64_t most = -memory_plan_.num_pages;
  RETURN_IF_ERROR(world.all_reduce_max(std::span<int64_t>(&most, 1)));
  memory_plan_ = with_pages(memory_plan_, static_cast<int>(-most));
  return Status::ok();
}

Status Llm::make_recorder(dist::Communicator& world) {
  ASSIGN_OR_RETURN(statistics_, StatisticsRecorder::create({.statistics = options_.statistics,
                                                            .config = &options_.model,
                                                            .engine = &options_.engine,
                                                            .mapping = &mapping_,
                                                            .groups = &groups_,
                                                            .world = &world,
                                                            .model = model_.get(),
                                                            .on_outcome = options_.on_statistics}));
  return Status::ok();
}

Status Llm::make_replica() {
  const EngineConfig& engine = options_.engine;
  limits_ = {.vocab_size = options_.model.vocab_size,
             .max_seq_len = max_seq_len(),
             .max_num_tokens = engine.max_num_tokens,
             .enable_chunked_prefill = engine.enable_chunked_prefill,
             .num_pages = memory_plan_.num_pages,
             .page_tokens = memory_plan_.page_tokens,
             .has_tokenizer = tokenizer_.has_value()};
  FrontendOptions frontend{.limits = limits_,
                           .eos_token_ids = eos_token_ids_,
                           .num_schedulers = 1,
                           .stream_interval = engine.stream_interval,
                           .make_detokenizer = nullptr};
  if (tokenizer_) {
    frontend.make_detokenizer = [this] { return std::make_unique<StreamDetokenizer>(*tokenizer_); };
  }
  ReplicaOptions options{
      .model = model_.get(),
      .groups = &groups_,
      .stream = &device_->stream(),
      .attention_dp = engine.parallel.enable_attention_dp,
      // What the balancer decides belongs between two iterations; on a CPU the host is the device.
      .overlap = device_->stream().is_cuda() && !engine.disable_overlap_scheduler &&
                 mapping_.pp() == 1 && model_->wide_ep() == nullptr,
      .vocab_size = options_.model.vocab_size,
      .page_size = engine.kv_cache.tokens_per_block,
      .scheduler = {.max_batch_size = engine.max_batch_size,
                    .max_num_tokens = engine.max_num_tokens,
                    .enable_chunked_prefill = engine.enable_chunked_prefill,
                    .kv_cache = {.num_pages = memory_plan_.num_pages,
                                 .page_tokens = memory_plan_.page_tokens,
                                 .enable_block_reuse = engine.kv_cache.enable_block_reuse,
                                 .enable_partial_reuse = engine.kv_cache.enable_partial_reuse}},
      .frontend = std::move(frontend),
      .on_iteration = options_.on_iteration,
      .statistics = statistics_.get()};
  ASSIGN_OR_RETURN(replica_, Replica::create(std::move(options)));
  return Status::ok();
}

}  // namespace wideep::engine

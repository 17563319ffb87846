#include "models/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "models/wide_ep_setup.h"

namespace wideep::models {
namespace {

// Columns that rotary embedding turns.
int rope_columns(const ModelConfig& config) {
  return config.mla ? config.mla->qk_rope_head_dim : config.head_dim;
}

std::span<const std::byte> bytes_of(ConstMatrixView view) {
  CHECK(view.stride == view.columns);
  return {view.data, static_cast<size_t>(view.rows * view.columns * dtype_size(view.dtype))};
}

std::span<std::byte> writable_bytes_of(MatrixView view) {
  CHECK(view.stride == view.columns);
  return {view.data, static_cast<size_t>(view.rows * view.columns * dtype_size(view.dtype))};
}

// What the sizes of the layout ask of the model; errors name both numbers.
Status check_layout(const ModelConfig& config, const Mapping& mapping, bool attention_dp) {
  const auto refuse = [](const char* key, int value, const std::string& rule) {
    return Status::invalid_input(fmt::format("{}: {}: {}", key, value, rule));
  };
  const int tp = attention_dp ? 1 : mapping.tp();
  if (config.num_attention_heads % tp != 0) {
    return refuse("tensor_parallel_size", tp,
                  fmt::format("must divide the {} attention heads", config.num_attention_heads));
  }
  const int kv_heads = config.num_key_value_heads;
  if (!config.mla && kv_heads % tp != 0 && tp % kv_heads != 0) {
    return refuse("tensor_parallel_size", tp,
                  fmt::format("must divide the {} KV heads or be a multiple of them", kv_heads));
  }
  if (mapping.pp() > config.num_layers) {
    return refuse("pipeline_parallel_size", mapping.pp(),
                  fmt::format("the model has {} layers", config.num_layers));
  }
  if (!config.moe_layers.empty() && mapping.moe_ep() > config.moe.num_experts) {
    return refuse("moe_expert_parallel_size", mapping.moe_ep(),
                  fmt::format("the model has {} experts", config.moe.num_experts));
  }
  return Status::ok();
}

}  // namespace

Result<std::unique_ptr<Model>> Model::create(Stream& stream, const ModelOptions& options) {
  return Decoder::create(stream, options);
}

Result<std::unique_ptr<Model>> Decoder::create(Stream& stream, const ModelOptions& options) {
  RETURN_IF_ERROR(check_layout(*options.config, *options.mapping,
                               options.engine->parallel.enable_attention_dp));
  std::unique_ptr<Decoder> decoder(new Decoder(stream, options));
  decoder->plan_weights();
  if (options.on_read_planned) {
    ASSIGN_OR_RETURN(const int64_t bytes, decoder->store_.bytes_to_read(*options.source));
    options.on_read_planned(bytes);
  }
  RETURN_IF_ERROR(decoder->store_.load(stream, *options.source));
  ASSIGN_OR_RETURN(decoder->scratch_, Buffer::allocate(decoder->scratch_bytes()));
  RETURN_IF_ERROR(decoder->start_wide_ep());
  return std::unique_ptr<Model>(std::move(decoder));
}

Decoder::Decoder(Stream& stream, const ModelOptions& options)
    : stream_(&stream),
      mapping_(*options.mapping),
      options_(options),
      config_(*options.config),
      rank_(options.groups->coordinates),
      range_(options.mapping->layers(rank_.pp_rank, options.config->num_layers)),
      rope_(rope_frequencies(options.config->rope, rope_columns(*options.config))) {
  options_.mapping = &mapping_;
  if (options.rope_frequency_dtype == DType::kBF16) round_to_bf16(rope_);
  if (options_.engine->moe.backend == MoeBackend::kWideEp) {
    wide_ep_ =
        std::make_unique<moe::WideEp>(wide_ep_options(config_, *options_.engine, mapping_, range_));
  }
}

Status Decoder::start_wide_ep() {
  if (wide_ep_ == nullptr) return Status::ok();
  std::vector<std::vector<moe::SlotBytes>> slots;
  for (const Layer& layer : layers_) {
    const moe::ExpertWeights weights = layer.feed_forward->slot_weights();
    if (weights.down.empty()) continue;
    std::vector<moe::SlotBytes>& of_layer = slots.emplace_back();
    for (size_t s = 0; s < weights.down.size(); ++s) {
      of_layer.push_back({store_.memory_of(weights.gate_up[s]), store_.memory_of(weights.down[s])});
    }
  }
  return wide_ep_->start(*options_.groups->moe_ep, std::move(slots));
}

void Decoder::plan_weights() {
  const std::string root = config_.is_nested_text ? "language_model." : "";
  const MatrixRequest table = {
      root + "model.embed_tokens.weight", -1, false, 0, config_.vocab_size, 0, config_.hidden_size};
  if (is_first_stage()) embedding_ = &store_.add_table(table, options_.weight_dtype);
  for (int layer = range_.begin; layer < range_.end; ++layer) layers_.push_back(plan_layer(layer));
  if (!is_last_stage()) return;
  final_norm_ = &store_.add_vector({root + "model.norm.weight", 0, config_.hidden_size});
  const Share vocabulary = share_of(config_.vocab_size, attention_tp(), attention_tp_rank());
  MatrixRequest head = table;
  if (!config_.tie_word_embeddings) head.name = root + "lm_head.weight";
  head.row_begin = vocabulary.begin;
  head.row_end = vocabulary.end;
  head_ = &store_.add_linear({head}, options_.weight_dtype);
}

Decoder::Layer Decoder::plan_layer(int layer) {
  const std::string prefix =
      fmt::format("{}model.layers.{}.", config_.is_nested_text ? "language_model." : "", layer);
  Layer planned;
  planned.input_norm =
      &store_.add_vector({prefix + "input_layernorm.weight", 0, config_.hidden_size});
  planned.post_attention_norm =
      &store_.add_vector({prefix + "post_attention_layernorm.weight", 0, config_.hidden_size});
  AttentionOptions attention;
  attention.config = &config_;
  attention.layer = layer;
  attention.prefix = prefix + "self_attn.";
  attention.share = head_share(config_, attention_tp(), attention_tp_rank());
  attention.weight_dtype = options_.weight_dtype;
  planned.attention = make_attention(attention, store_);
  planned.feed_forward =
      make_feed_forward({&options_, rank_, layer, prefix, &observer_, wide_ep_.get()}, store_);
  return planned;
}

KvSpec Decoder::kv_spec() const {
  const kernels::KvCacheView layout = layers_.front().attention->cache_layout();
  return {static_cast<int>(std::ssize(layers_)), layout.kv_heads, layout.row_dim,
          options_.kv_dtype};
}

ModelMemory Decoder::memory() const {
  int64_t activations = scratch_.size();
  if (wide_ep_ != nullptr) {
    activations += alltoall::AllToAll::buffer_bytes(wide_ep_->options().all_to_all);
  }
  return {store_.bytes(), activations};
}

int64_t Decoder::scratch_bytes() const {
  const int rows = options_.engine->max_num_tokens;
  const int cp = mapping_.cp();
  const int own_rows = share_of(rows, cp, cp - 1).size();  // the last share is the largest
  int64_t layer_bytes = 0;
  for (const Layer& layer : layers_) {
    layer_bytes = std::max({layer_bytes, layer.attention->scratch_bytes(rows, cp),
                            layer.feed_forward->scratch_bytes(own_rows)});
  }
  if (is_last_stage()) {
    layer_bytes = std::max(layer_bytes, 2 * Arena::matrix_bytes(rows, config_.hidden_size) +
                                            2 * Arena::matrix_bytes(rows, config_.vocab_size));
  }
  return 3 * Arena::matrix_bytes(own_rows, config_.hidden_size) + layer_bytes +
         Arena::matrix_bytes(own_rows, rope_columns(config_)) +
         Arena::padded(rows * int64_t{sizeof(int)}) +
         Arena::padded(rows * int64_t{sizeof(int64_t)}) +
         Arena::padded(rows * int64_t{sizeof(kernels::AttentionSequence)}) +
         Arena::matrix_bytes(cp, 2);
}

kernels::KvCacheView Decoder::cache_of(int local_layer) const {
  CHECK(kv_memory_.data != nullptr);
  kernels::KvCacheView cache = layers_[local_layer].attention->cache_layout();
  cache.dtype = options_.kv_dtype;
  cache.page_size = kv_memory_.page_size;
  cache.data = kv_memory_.data + int64_t{local_layer} * kv_memory_.num_pages *
                                     kv_memory_.page_size * kv_spec().bytes_per_token_and_layer();
  return cache;
}

void Decoder::place_tokens(const Batch& batch, ForwardPass& pass) {
  const int cp = mapping_.cp();
  const int page_size = kv_memory_.page_size;
  const std::span<int> positions = pass.arena->take<int>(pass.num_rows);
  const std::span<int64_t> slots = pass.arena->take<int64_t>(pass.num_rows);
  const std::span<kernels::AttentionSequence> sequences =
      pass.arena->take<kernels::AttentionSequence>(std::ssize(batch.sequences));
  int row = 0;
  for (int s = 0; s < std::ssize(batch.sequences); ++s) {
    const BatchSequence& sequence = batch.sequences[s];
    CHECK(sequence.first_row == row);
    for (int i = 0; i < sequence.num_rows; ++i, ++row) {
      const int position = sequence.first_position + i;
      const int block = position / page_size;  // block b is on cp rank b % cp, as its page b / cp
      positions[row] = position;
      CHECK(block / cp < std::ssize(sequence.pages));
      slots[row] = block % cp == rank_.cp_rank
                       ? int64_t{sequence.pages[block / cp]} * page_size + position % page_size
                       : -1;
    }
    sequences[s] = {sequence.first_row, sequence.num_rows, sequence.first_position,
                    sequence.pages.data()};
  }
  CHECK(row == pass.num_rows);
  pass.positions = positions;
  pass.slots = slots;
  pass.sequences = sequences;
}

ForwardPass Decoder::begin_pass(const Batch& batch, Arena& arena) {
  ForwardPass pass;
  pass.stream = stream_;
  pass.arena = &arena;
  pass.num_rows = static_cast<int>(std::ssize(batch.token_ids));
  const int cp = mapping_.cp();
  if (cp > 1) pass.cp = options_.groups->cp.get();
  const std::span<int64_t> cp_rows = arena.take<int64_t>(cp);
  for (int rank = 0; rank < cp; ++rank) cp_rows[rank] = share_of(pass.num_rows, cp, rank).size();
  pass.cp_rows = cp_rows;
  const Share own = share_of(pass.num_rows, cp, rank_.cp_rank);
  pass.own_begin = own.begin;
  pass.own_end = own.end;
  place_tokens(batch, pass);

  const MatrixView rope = arena.matrix(own.size(), rope_columns(config_));
  kernels::rope_table(*stream_, {pass.positions.subspan(own.begin, own.size()), rope_.inv_freq,
                                 rope_.factor, rope});
  pass.rope = rope;
  return pass;
}

std::vector<int> Decoder::own_rows_of_dp(const Batch& batch) const {
  std::vector<int> rows;
  for (const int tokens : batch.dp_tokens) {
    rows.push_back(share_of(tokens, mapping_.cp(), rank_.cp_rank).size());
  }
  return rows;
}

Status Decoder::reduce(MatrixView y) {
  if (attention_tp() == 1) return Status::ok();
  return options_.groups->tp->all_reduce_sum(
      std::span<float>(y.row<float>(0), static_cast<size_t>(y.rows * y.columns)));
}

Status Decoder::begin_stage(const ForwardPass& pass, const Batch& batch, const Hidden& hidden) {
  std::memset(hidden.delta.data, 0, writable_bytes_of(hidden.delta).size());
  if (is_first_stage()) {
    const std::span<const int> ids = batch.token_ids;
    kernels::embedding(*stream_, *embedding_, ids.subspan(pass.own_begin, pass.own_rows()),
                       hidden.residual);
    return Status::ok();
  }
  return options_.groups->pp->recv(writable_bytes_of(hidden.residual), rank_.pp_rank - 1, 0);
}

Status Decoder::run_layers(const ForwardPass& pass, std::span<const int> dp_rows,
                           const Hidden& hidden) {
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  for (int i = 0; i < std::ssize(layers_); ++i) {
    const Layer& layer = layers_[i];
    kernels::add_rms_norm(*stream_,
                          {hidden.delta, hidden.residual, layer.input_norm->data(), eps, hidden.x});
    RETURN_IF_ERROR(layer.attention->forward(pass, hidden.x, cache_of(i), hidden.delta));
    RETURN_IF_ERROR(reduce(hidden.delta));
    kernels::add_rms_norm(*stream_, {hidden.delta, hidden.residual,
                                     layer.post_attention_norm->data(), eps, hidden.x});
    RETURN_IF_ERROR(layer.feed_forward->forward(pass, hidden.x, dp_rows, hidden.delta));
    RETURN_IF_ERROR(reduce(hidden.delta));
  }
  return Status::ok();
}

Status Decoder::send_stage(const Hidden& hidden) {
  kernels::add(*stream_, hidden.delta, hidden.residual);
  return options_.groups->pp->send(bytes_of(hidden.residual), rank_.pp_rank + 1, 0);
}

Status Decoder::gather_logits(ConstMatrixView own, MatrixView logits, Arena& arena) {
  const int tp = attention_tp();
  const std::span<float> parts = arena.take<float>(logits.rows * config_.vocab_size);
  std::vector<int64_t> sizes;
  for (int rank = 0; rank < tp; ++rank) {
    sizes.push_back(logits.rows * share_of(config_.vocab_size, tp, rank).size() *
                    int64_t{sizeof(float)});
  }
  RETURN_IF_ERROR(
      options_.groups->tp->all_gather_v(bytes_of(own), sizes, std::as_writable_bytes(parts)));
  const float* part = parts.data();
  for (int rank = 0; rank < tp; ++rank) {
    const Share columns = share_of(config_.vocab_size, tp, rank);
    for (int64_t row = 0; row < logits.rows; ++row, part += columns.size()) {
      std::memcpy(logits.row<float>(row) + columns.begin, part,
                  static_cast<size_t>(columns.size()) * sizeof(float));
    }
  }
  return Status::ok();
}

// The normalised hidden states of the rows whose logits are wanted, of all ranks of the cp group.
Result<ConstMatrixView> Decoder::head_input(const ForwardPass& pass, const Batch& batch,
                                            const Hidden& hidden) {
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  kernels::add_rms_norm(*stream_,
                        {hidden.delta, hidden.residual, final_norm_->data(), eps, hidden.x});
  const std::vector<int>& wanted = batch.logits_rows;
  const auto first = std::ranges::lower_bound(wanted, pass.own_begin);
  const auto last = std::ranges::lower_bound(wanted, pass.own_end);
  const MatrixView own = pass.arena->matrix(last - first, config_.hidden_size);
  for (auto row = first; row != last; ++row) {
    std::memcpy(own.row<float>(row - first), hidden.x.row<float>(*row - pass.own_begin),
                static_cast<size_t>(config_.hidden_size) * sizeof(float));
  }
  if (pass.cp == nullptr) return ConstMatrixView(own);
  std::vector<int64_t> sizes;
  for (int rank = 0; rank < pass.cp->size(); ++rank) {
    const Share rows = share_of(pass.num_rows, pass.cp->size(), rank);
    const auto count =
        std::ranges::lower_bound(wanted, rows.end) - std::ranges::lower_bound(wanted, rows.begin);
    sizes.push_back(count * config_.hidden_size * int64_t{sizeof(float)});
  }
  const MatrixView all = pass.arena->matrix(std::ssize(wanted), config_.hidden_size);
  RETURN_IF_ERROR(pass.cp->all_gather_v(bytes_of(own), sizes, writable_bytes_of(all)));
  return ConstMatrixView(all);
}

Status Decoder::write_logits(const ForwardPass& pass, const Batch& batch, const Hidden& hidden,
                             MatrixView logits) {
  CHECK(logits.rows == std::ssize(batch.logits_rows) && logits.columns == config_.vocab_size);
  if (logits.rows == 0) return Status::ok();
  const Arena::Scope scope(*pass.arena);
  ASSIGN_OR_RETURN(const ConstMatrixView rows, head_input(pass, batch, hidden));
  if (attention_tp() == 1) {
    kernels::linear(*stream_, rows, *head_, logits);
    return Status::ok();
  }
  const MatrixView own = pass.arena->matrix(logits.rows, head_->out_features);
  kernels::linear(*stream_, rows, *head_, own);
  return gather_logits(own, logits, *pass.arena);
}

Status Decoder::begin_wide_ep(const Batch& batch) {
  if (!is_attention_dp()) return wide_ep_->begin_iteration(std::array{wide_ep_->state()});
  return wide_ep_->begin_iteration(batch.balancer_states);
}

Status Decoder::forward(const Batch& batch, MatrixView logits) {
  CHECK(std::ssize(batch.token_ids) <= options_.engine->max_num_tokens);
  CHECK(std::ssize(batch.dp_tokens) == (is_attention_dp() ? mapping_.tp() : 0));
  if (wide_ep_ != nullptr) RETURN_IF_ERROR(begin_wide_ep(batch));
  Arena arena(scratch_.span<std::byte>(scratch_.size()));
  const ForwardPass pass = begin_pass(batch, arena);
  const std::vector<int> dp_rows = own_rows_of_dp(batch);
  Hidden hidden;
  hidden.residual = arena.matrix(pass.own_rows(), config_.hidden_size);
  hidden.delta = arena.matrix(pass.own_rows(), config_.hidden_size);
  hidden.x = arena.matrix(pass.own_rows(), config_.hidden_size);
  RETURN_IF_ERROR(begin_stage(pass, batch, hidden));
  RETURN_IF_ERROR(run_layers(pass, dp_rows, hidden));
  return is_last_stage() ? write_logits(pass, batch, hidden, logits) : send_stage(hidden);
}

}  // namespace wideep::models

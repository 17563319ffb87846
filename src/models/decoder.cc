#include "models/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>

#include "dist/launch_together.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/rope.h"
#include "models/tensor_list.h"
#include "models/weight_type.h"
#include "models/wide_ep_setup.h"

namespace wideep::models {
namespace {

// Columns that rotary embedding turns.
int rope_columns(const ModelConfig& config) {
  return config.mla ? config.mla->qk_rope_head_dim : config.head_dim;
}

using dist::bytes_of;
using dist::writable_bytes_of;

DecodeGraphs graph_sizes(const Stream& stream, const EngineConfig& engine) {
  if (!stream.is_cuda() || !engine.cuda_graph) return DecodeGraphs({}, false);
  std::vector<int> sizes = engine.cuda_graph->batch_sizes;
  // What the logits have room for.
  std::erase_if(sizes, [&](int size) {
    return size > std::min(engine.max_batch_size, engine.max_num_tokens);
  });
  return DecodeGraphs(std::move(sizes), engine.cuda_graph->enable_padding);
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
  RETURN_IF_ERROR(decoder->make_groups());
  decoder->plan_weights();
  RETURN_IF_ERROR(decoder->plan_activations());
  RETURN_IF_ERROR(decoder->check_memory());
  if (options.on_read_planned) {
    ASSIGN_OR_RETURN(const int64_t bytes, decoder->store_.bytes_to_read(*options.source));
    options.on_read_planned(bytes);
  }
  RETURN_IF_ERROR(decoder->store_.load(stream, *options.source));
  ASSIGN_OR_RETURN(decoder->scratch_,
                   Buffer::allocate(decoder->scratch_bytes(), kernels::space_of(stream)));
  ASSIGN_OR_RETURN(decoder->tables_, BatchTables::create(stream, options.engine->max_num_tokens));
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
      rope_(rope_frequencies(options.config->rope, rope_columns(*options.config))),
      store_(kernels::space_of(stream)),
      graphs_(graph_sizes(stream, *options.engine)) {
  options_.mapping = &mapping_;
  if (options.rope_frequency_dtype == DType::kBF16) round_to_bf16(rope_);
  if (options_.engine->moe.backend == MoeBackend::kWideEp) {
    std::optional<DType> gpu_weights;
    if (stream.is_cuda()) gpu_weights = options.weight_dtype;
    wide_ep_ = std::make_unique<moe::WideEp>(
        wide_ep_options(config_, *options_.engine, mapping_, range_, gpu_weights));
  }
}

Status Decoder::make_groups() {
  const dist::Groups& groups = *options_.groups;
  for (const auto& [group, tensors] :
       {std::pair{groups.tp.get(), &tp_}, {groups.cp.get(), &cp_}, {groups.pp.get(), &pp_}}) {
    if (group->size() == 1) continue;
    ASSIGN_OR_RETURN(*tensors, dist::TensorGroup::create(*group, *stream_));
  }
  return Status::ok();
}

Status Decoder::plan_activations() {
  activation_bytes_ = scratch_bytes();
  if (wide_ep_ == nullptr) return Status::ok();
  if (!stream_->is_cuda()) {
    activation_bytes_ += alltoall::AllToAll::buffer_bytes(wide_ep_->options().all_to_all);
    return Status::ok();
  }
  ASSIGN_OR_RETURN(const int64_t bytes, wide_ep_->device_bytes());
  activation_bytes_ += bytes;
  return Status::ok();
}

Status Decoder::check_memory() const {
  const int64_t need = store_.bytes() + activation_bytes_;
  if (!stream_->is_cuda() || options_.available_bytes == 0 || need <= options_.available_bytes) {
    return Status::ok();
  }
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  return Status::unavailable(fmt::format(
      "memory: this rank's weights take {:.2f} GiB and its activations {:.2f} GiB; {:.2f} GiB of "
      "its "
      "GPU are free: spread the model over more ranks (tensor_parallel_size, "
      "moe_expert_parallel_size, pipeline_parallel_size), or lower max_num_tokens or "
      "moe_config.max_num_tokens",
      static_cast<double>(store_.bytes()) / kGiB, static_cast<double>(activation_bytes_) / kGiB,
      static_cast<double>(options_.available_bytes) / kGiB));
}

Status Decoder::start_wide_ep() {
  if (wide_ep_ == nullptr) return Status::ok();
  std::vector<std::vector<moe::SlotBytes>> slots;
  for (const Layer& layer : layers_) {
    std::vector<moe::SlotBytes> of_layer = slot_bytes(store_, *layer.feed_forward);
    if (!of_layer.empty()) slots.push_back(std::move(of_layer));
  }
  return wide_ep_->start(*options_.groups->moe_ep, std::move(slots),
                         stream_->is_cuda() ? stream_ : nullptr);
}

void Decoder::plan_weights() {
  const std::string root = name_prefix(config_);
  const MatrixRequest table = {
      root + "model.embed_tokens.weight", -1, false, 0, config_.vocab_size, 0, config_.hidden_size};
  if (is_first_stage()) embedding_ = &store_.add_table(table, unquantized(options_.weight_dtype));
  for (int layer = range_.begin; layer < range_.end; ++layer) layers_.push_back(plan_layer(layer));
  if (!is_last_stage()) return;
  final_norm_ = &store_.add_vector({root + "model.norm.weight", 0, config_.hidden_size});
  const Share vocabulary = share_of(config_.vocab_size, attention_tp(), attention_tp_rank());
  MatrixRequest head = table;
  if (!config_.tie_word_embeddings) head.name = root + "lm_head.weight";
  head.row_begin = vocabulary.begin;
  head.row_end = vocabulary.end;
  head_ = &store_.add_linear({head}, unquantized(options_.weight_dtype));
}

Decoder::Layer Decoder::plan_layer(int layer) {
  const std::string prefix = fmt::format("{}model.layers.{}.", name_prefix(config_), layer);
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
  attention.on_gpu = stream_->is_cuda();
  planned.attention = make_attention(attention, store_);
  planned.feed_forward = make_feed_forward({.model = &options_,
                                            .rank = rank_,
                                            .layer = layer,
                                            .prefix = prefix,
                                            .tp = tp_.get(),
                                            .on_gpu = stream_->is_cuda(),
                                            .observer = &observer_,
                                            .wide_ep = wide_ep_.get()},
                                           store_);
  return planned;
}

KvSpec Decoder::kv_spec() const {
  const kernels::KvCacheView layout = layers_.front().attention->cache_layout();
  return {static_cast<int>(std::ssize(layers_)), layout.kv_heads, layout.row_dim,
          options_.kv_dtype};
}

ModelMemory Decoder::memory() const {
  return {store_.bytes(), activation_bytes_};
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
         Arena::matrix_bytes(own_rows, rope_columns(config_)) + BatchTables::scratch_bytes(rows);
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

Status Decoder::set_kv_memory(const KvMemory& memory) {
  kv_memory_ = memory;
  if (!stream_->is_cuda()) return Status::ok();
  const EngineConfig& engine = *options_.engine;
  const kernels::KvCacheView layout = layers_.front().attention->cache_layout();
  const int64_t longest = engine.max_seq_len.value_or(config_.max_position_embeddings);
  const int64_t span = int64_t{memory.page_size} * mapping_.cp();
  kernels::AttentionTablesOptions tables;
  tables.max_sequences = std::max(engine.max_batch_size, 1);
  tables.max_rows = engine.max_num_tokens;
  // Sequences may share pages.
  tables.max_pages = (longest + span - 1) / span * tables.max_sequences;
  tables.page_size = memory.page_size;
  tables.num_heads = layers_.front().attention->num_heads();
  tables.kv_heads = layout.kv_heads;
  tables.k_dim = layout.k_dim;
  tables.v_dim = layout.v_dim;
  tables.dtype = options_.kv_dtype;
  if (config_.llama4) tables.chunk_size = config_.llama4->attention_chunk_size;
  const Attention::SelfDims self = layers_.front().attention->self_dims();
  tables.self_k_dim = self.k_dim;
  tables.self_v_dim = self.v_dim;
  tables.cp_size = mapping_.cp();
  tables.cp_rank = rank_.cp_rank;
  ASSIGN_OR_RETURN(attention_tables_, kernels::AttentionTables::create(tables));
  return Status::ok();
}

int Decoder::graph_rows(const Batch& batch) const {
  // Observers read what a graph has not computed yet.
  if (observer_ != nullptr || mapping_.cp() > 1) return 0;
  const auto can = [](const auto& group) { return group == nullptr || group->is_capturable(); };
  // With attention DP the tp group exchanges what experts need, and nothing else.
  const bool can_exchange = wide_ep_ != nullptr ? wide_ep_->is_capturable() : can(tp_);
  if (!can_exchange || !can(pp_)) return 0;
  if (!is_attention_dp()) {
    return batch.is_decode() ? graphs_.padded(static_cast<int>(std::ssize(batch.sequences))) : 0;
  }
  // All ranks have come to the same.
  return batch.all_decode ? graphs_.padded(*std::ranges::max_element(batch.dp_tokens)) : 0;
}

Result<ForwardPass> Decoder::begin_pass(const Batch& batch, int graph_rows, Arena& arena) {
  ForwardPass pass;
  pass.stream = stream_;
  pass.arena = &arena;
  pass.dtype = activation_dtype(*stream_, options_.weight_dtype);
  pass.num_rows = graph_rows > 0 ? graph_rows : static_cast<int>(std::ssize(batch.token_ids));
  const int cp = mapping_.cp();
  pass.cp = cp_.get();
  for (int rank = 0; rank < cp; ++rank) {
    pass.cp_rows.push_back(share_of(pass.num_rows, cp, rank).size());
  }
  const Share own = share_of(pass.num_rows, cp, rank_.cp_rank);
  pass.own_begin = own.begin;
  pass.own_end = own.end;
  tables_->place(batch, {kv_memory_.page_size, cp, rank_.cp_rank}, graph_rows > 0, pass);
  if (attention_tables_ != nullptr) {
    RETURN_IF_ERROR(attention_tables_->prepare(*stream_, pass.sequences, graph_rows));
    pass.attention_tables = attention_tables_.get();
  }
  return pass;
}

std::vector<int> Decoder::own_rows_of_dp(const ForwardPass& pass, const Batch& batch) const {
  if (pass.num_tokens != nullptr) {
    return std::vector<int>(batch.dp_tokens.size(), pass.num_rows);
  }
  std::vector<int> rows;
  for (const int tokens : batch.dp_tokens) {
    rows.push_back(share_of(tokens, mapping_.cp(), rank_.cp_rank).size());
  }
  return rows;
}

Status Decoder::reduce(MatrixView y) {
  return attention_tp() == 1 ? Status::ok() : tp_->all_reduce_sum(y);
}

Status Decoder::begin_stage(const ForwardPass& pass, const Hidden& hidden) {
  kernels::zero_bytes(*stream_, writable_bytes_of(hidden.delta));
  if (is_first_stage()) {
    kernels::embedding(*stream_, *embedding_,
                       pass.token_ids.subspan(pass.own_begin, pass.own_rows()), hidden.residual);
    return Status::ok();
  }
  return pp_->recv(writable_bytes_of(hidden.residual), rank_.pp_rank - 1);
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
    if (const Status& status = stream_->status(); !status.is_ok()) {
      return Status::of_code(status.code(),
                             fmt::format("layer {}: {}", range_.begin + i, status.message()));
    }
  }
  return Status::ok();
}

Status Decoder::send_stage(const Hidden& hidden) {
  kernels::add(*stream_, hidden.delta, hidden.residual);
  return pp_->send(bytes_of(hidden.residual), rank_.pp_rank + 1);
}

Status Decoder::gather_logits(ConstMatrixView own, MatrixView logits, Arena& arena) {
  const int tp = attention_tp();
  const std::span<float> parts = arena.take<float>(logits.rows * config_.vocab_size);
  std::vector<int64_t> sizes;
  for (int rank = 0; rank < tp; ++rank) {
    sizes.push_back(logits.rows * share_of(config_.vocab_size, tp, rank).size() *
                    int64_t{sizeof(float)});
  }
  RETURN_IF_ERROR(tp_->all_gather_v(bytes_of(own), sizes, std::as_writable_bytes(parts)));
  const float* part = parts.data();
  for (int rank = 0; rank < tp; ++rank) {
    const Share columns = share_of(config_.vocab_size, tp, rank);
    kernels::copy_matrix(*stream_, matrix_view(part, logits.rows, columns.size()),
                         logits.column_range(columns.begin, columns.size()));
    part += logits.rows * columns.size();
  }
  return Status::ok();
}

// The normalised hidden states of the rows whose logits are wanted, of all ranks of the cp group.
Result<ConstMatrixView> Decoder::head_input(const ForwardPass& pass, const Batch& batch,
                                            const Hidden& hidden) {
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  kernels::add_rms_norm(*stream_,
                        {hidden.delta, hidden.residual, final_norm_->data(), eps, hidden.x});
  const MatrixView own = pass.matrix(std::ssize(pass.logits_rows), config_.hidden_size);
  kernels::pick_rows(*stream_, hidden.x, pass.logits_rows, own);
  if (pass.cp == nullptr) return ConstMatrixView(own);
  const std::vector<int>& wanted = batch.logits_rows;
  std::vector<int64_t> sizes;
  for (int rank = 0; rank < pass.cp->size(); ++rank) {
    const Share rows = share_of(pass.num_rows, pass.cp->size(), rank);
    const auto count =
        std::ranges::lower_bound(wanted, rows.end) - std::ranges::lower_bound(wanted, rows.begin);
    sizes.push_back(count * config_.hidden_size * dtype_size(own.dtype));
  }
  const MatrixView all = pass.matrix(std::ssize(wanted), config_.hidden_size);
  RETURN_IF_ERROR(pass.cp->all_gather_v(bytes_of(own), sizes, writable_bytes_of(all)));
  return ConstMatrixView(all);
}

Status Decoder::write_logits(const ForwardPass& pass, const Batch& batch, const Hidden& hidden,
                             MatrixView logits) {
  CHECK(logits.columns == config_.vocab_size);
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

Status Decoder::run_pass(ForwardPass pass, const Batch& batch, MatrixView logits) {
  Arena& arena = *pass.arena;
  const Arena::Scope scope(arena);
  const MatrixView rope = arena.matrix(pass.own_rows(), rope_columns(config_));
  kernels::rope_table(*stream_, {pass.positions.subspan(pass.own_begin, pass.own_rows()),
                                 rope_.inv_freq, rope_.factor, rope});
  pass.rope = rope;
  const std::vector<int> dp_rows = own_rows_of_dp(pass, batch);
  Hidden hidden;
  // The residual is a long sum: it stays in fp32.
  hidden.residual = arena.matrix(pass.own_rows(), config_.hidden_size);
  hidden.delta = pass.matrix(pass.own_rows(), config_.hidden_size);
  hidden.x = pass.matrix(pass.own_rows(), config_.hidden_size);
  RETURN_IF_ERROR(begin_stage(pass, hidden));
  RETURN_IF_ERROR(run_layers(pass, dp_rows, hidden));
  RETURN_IF_ERROR(is_last_stage() ? write_logits(pass, batch, hidden, logits) : send_stage(hidden));
  return stream_->status();
}

Status Decoder::forward(const Batch& batch, MatrixView logits) {
  CHECK(std::ssize(batch.token_ids) <= options_.engine->max_num_tokens);
  CHECK(std::ssize(batch.dp_tokens) == (is_attention_dp() ? mapping_.tp() : 0));
  if (wide_ep_ != nullptr) RETURN_IF_ERROR(begin_wide_ep(batch));
  Arena arena(scratch_.span<std::byte>(scratch_.size()));
  const int graph_rows = this->graph_rows(batch);
  ASSIGN_OR_RETURN(const ForwardPass pass, begin_pass(batch, graph_rows, arena));
  if (graph_rows == 0) {
    RETURN_IF_ERROR(run_pass(pass, batch, logits));
  } else {
    MatrixView padded = logits;
    padded.rows = graph_rows;
    RETURN_IF_ERROR(graphs_.run(
        *stream_, graph_rows, padded.data, [&] { return run_pass(pass, batch, padded); },
        [&](const auto& replay) {
          return dist::launch_together(*options_.groups->model, replay);
        }));
  }
  return wide_ep_ != nullptr ? wide_ep_->end_iteration() : Status::ok();
}

}  // namespace wideep::models

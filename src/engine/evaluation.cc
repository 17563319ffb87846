#include "engine/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/buffer.h"
#include "base/json.h"
#include "base/stream.h"
#include "config/mapping.h"
#include "dist/groups.h"
#include "engine/dp_exchange.h"
#include "kernels/transfer.h"
#include "models/model.h"
#include "models/weight_source.h"

namespace wideep::engine {
namespace {

constexpr int kTopLogits = 20;
constexpr int kPageSize = 32;
// Prompt tokens of one iteration: every one of them asks for a row of logits.
constexpr int kChunkTokens = 256;

// What a rank knows of a prompt goes to rank 0 as JSON.
Json to_json(const Evaluation& evaluation) {
  Json json;
  json["name"] = evaluation.name;
  json["mean_nll"] = evaluation.mean_nll ? Json(*evaluation.mean_nll) : Json();
  json["last_logits_top20"] = evaluation.top_logits;
  json["last_logits_l2"] = evaluation.logits_l2;
  json["greedy"] = evaluation.greedy;
  json["greedy_margin"] = evaluation.greedy_margin;
  json["routed_experts"] = Json::object();
  for (const auto& [layer, tokens] : evaluation.routed_experts) {
    json["routed_experts"][std::to_string(layer)] = tokens;
  }
  return json;
}

// Takes over what `json` has and `evaluation` lacks.
void merge(const Json& json, Evaluation& evaluation) {
  const auto top = json["last_logits_top20"].get<std::vector<std::pair<int, float>>>();
  if (!top.empty()) {
    evaluation.top_logits = top;
    if (!json["mean_nll"].is_null()) evaluation.mean_nll = json["mean_nll"].get<double>();
    evaluation.logits_l2 = json["last_logits_l2"].get<double>();
    evaluation.greedy = json["greedy"].get<std::vector<int>>();
    evaluation.greedy_margin = json["greedy_margin"].get<std::vector<float>>();
  }
  for (const auto& [layer, tokens] : json["routed_experts"].items()) {
    auto& merged = evaluation.routed_experts[std::stoi(layer)];
    merged.resize(tokens.size());
    for (size_t t = 0; t < tokens.size(); ++t) {
      if (merged[t].empty()) merged[t] = tokens[t].get<std::vector<int>>();
    }
  }
}

// -log of the softmax at `token`.
double negative_log_likelihood(std::span<const float> logits, int token) {
  const float largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest - logits[token];
}

// Ids of the `count` largest logits, descending; ties to the smaller id.
std::vector<int> largest(std::span<const float> logits, int count) {
  std::vector<int> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  count = std::min(count, static_cast<int>(std::ssize(ids)));
  std::ranges::partial_sort(ids, ids.begin() + count, [&](int a, int b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  ids.resize(count);
  return ids;
}

// Runs this rank's prompts, in lockstep with the other ranks of the replica.
class Evaluator : public models::RoutingObserver {
 public:
  Evaluator(const EvaluationJob& job, models::Model& model, const dist::Groups& groups,
            std::span<const EvaluationPrompt> prompts, Stream& stream)
      : job_(job), model_(model), groups_(groups), prompts_(prompts), stream_(stream) {}

  Result<std::vector<Evaluation>> run() {
    RETURN_IF_ERROR(allocate());
    if (job_.records_routing) model_.add_routing_observer(*this);
    const Status status = run_prompts();
    if (job_.records_routing) model_.remove_routing_observer(*this);
    RETURN_IF_ERROR(status);
    return gather();
  }

  void on_routing(int layer, int first_row, std::span<const int32_t> ids, int top_k) override {
    if (ids.empty()) return;  // a rank without a prompt left
    const int prompt_tokens = static_cast<int>(prompt().token_ids.size());
    auto& tokens = results_[current_].routed_experts[layer];
    tokens.resize(prompt_tokens);
    for (int row = 0; row * top_k < std::ssize(ids); ++row) {
      const int position = done_ + first_row + row;
      if (position >= prompt_tokens) return;
      const auto own = ids.subspan(static_cast<size_t>(row) * top_k, top_k);
      tokens[position].assign(own.begin(), own.end());
    }
  }

 private:
  bool is_attention_dp() const { return job_.engine.parallel.enable_attention_dp; }
  bool has_logits() const { return groups_.pp->rank() == groups_.pp->size() - 1; }
  const EvaluationPrompt& prompt() const { return prompts_[current_]; }
  bool is_finished() const { return current_ >= std::ssize(prompts_); }

  Status allocate() {
    int64_t longest = 0;
    for (const EvaluationPrompt& prompt : prompts_) {
      longest = std::max<int64_t>(longest, std::ssize(prompt.token_ids));
    }
    results_.resize(prompts_.size());
    const int span = kPageSize * groups_.cp->size();
    const int num_pages = static_cast<int>((longest + job_.num_greedy) / span + 1);
    pages_.resize(num_pages);
    std::iota(pages_.begin(), pages_.end(), 0);
    const int64_t kv_bytes = model_.kv_spec().bytes_per_token() * num_pages * kPageSize;
    const MemorySpace space = kernels::space_of(stream_);
    ASSIGN_OR_RETURN(kv_, Buffer::allocate(kv_bytes, space));
    RETURN_IF_ERROR(model_.set_kv_memory({kv_.data(), num_pages, kPageSize}));
    const int64_t columns = job_.model.vocab_size;
    const auto logits_bytes = chunk_tokens() * columns * static_cast<int64_t>(sizeof(float));
    ASSIGN_OR_RETURN(device_logits_, Buffer::allocate(logits_bytes, space));
    ASSIGN_OR_RETURN(logits_, Buffer::allocate(logits_bytes));
    // With attention DP the ranks of the tp group take turns.
    stride_ = is_attention_dp() ? groups_.tp->size() : 1;
    current_ = is_attention_dp() ? groups_.tp->rank() : 0;
    return Status::ok();
  }

  int64_t chunk_tokens() const { return std::min(kChunkTokens, job_.engine.max_num_tokens); }

  models::Batch next_batch() const {
    models::Batch batch;
    if (is_finished()) return batch;
    const std::vector<int>& tokens = prompt().token_ids;
    if (done_ < std::ssize(tokens)) {
      const auto count = std::min(chunk_tokens(), std::ssize(tokens) - done_);
      batch.token_ids.assign(tokens.begin() + done_, tokens.begin() + done_ + count);
    } else {
      batch.token_ids = {results_[current_].greedy.back()};
    }
    const int rows = static_cast<int>(batch.token_ids.size());
    batch.sequences = {{0, rows, done_, pages_}};
    batch.logits_rows.resize(rows);
    std::iota(batch.logits_rows.begin(), batch.logits_rows.end(), 0);
    return batch;
  }

  Status run_prompts() {
    for (;;) {
      models::Batch batch = next_batch();
      const auto rows = static_cast<int>(batch.token_ids.size());
      if (is_attention_dp()) {
        ASSIGN_OR_RETURN(const bool any, exchange_dp_state(groups_, model_, batch));
        if (!any) break;
      } else if (rows == 0) {
        break;
      }
      const int64_t columns = job_.model.vocab_size;
      RETURN_IF_ERROR(
          model_.forward(batch, matrix_view(device_logits_.as<float>(), rows, columns)));
      kernels::fetch_bytes(
          stream_, std::as_bytes(device_logits_.span<float>(has_logits() ? rows * columns : 0)),
          logits_.data());
      RETURN_IF_ERROR(stream_.status());
      if (model_.wide_ep() != nullptr) RETURN_IF_ERROR(model_.wide_ep()->check());
      if (rows > 0) RETURN_IF_ERROR(take(matrix_view(logits_.as<float>(), rows, columns)));
    }
    return Status::ok();
  }

  std::span<const float> row_of(MatrixView logits, int64_t row) const {
    return {logits.row<float>(row), static_cast<size_t>(logits.columns)};
  }

  // Takes the logits of the batch's rows into the result and moves on.
  Status take(MatrixView logits) {
    const std::vector<int>& tokens = prompt().token_ids;
    if (has_logits()) {
      for (int64_t row = 0; row < logits.rows && done_ + row + 1 < std::ssize(tokens); ++row) {
        nll_ += negative_log_likelihood(row_of(logits, row), tokens[done_ + row + 1]);
      }
    }
    done_ += static_cast<int>(logits.rows);
    if (done_ < std::ssize(tokens)) return Status::ok();
    const std::span<const float> last = row_of(logits, logits.rows - 1);
    if (has_logits() && done_ == std::ssize(tokens)) finish_prompt(last);
    if (std::ssize(results_[current_].greedy) < job_.num_greedy) return add_greedy(last);
    next_prompt();
    return Status::ok();
  }

  void finish_prompt(std::span<const float> last) {
    Evaluation& result = results_[current_];
    const auto predicted = std::ssize(prompt().token_ids) - 1;
    if (predicted > 0) result.mean_nll = nll_ / static_cast<double>(predicted);
    for (const int id : largest(last, kTopLogits)) result.top_logits.emplace_back(id, last[id]);
    result.logits_l2 = std::sqrt(std::inner_product(last.begin(), last.end(), last.begin(), 0.0));
  }

  // The next token, which the stages without logits learn from the last one. The model runs once
  // more after it, except after the last.
  Status add_greedy(std::span<const float> last) {
    Evaluation& result = results_[current_];
    int token = 0;
    if (has_logits()) {
      const std::vector<int> best = largest(last, 2);
      token = best[0];
      result.greedy_margin.push_back(best.size() > 1 ? last[best[0]] - last[best[1]] : 0);
    }
    RETURN_IF_ERROR(groups_.pp->broadcast(std::as_writable_bytes(std::span(&token, 1)),
                                          groups_.pp->size() - 1));
    result.greedy.push_back(token);
    if (std::ssize(result.greedy) == job_.num_greedy) next_prompt();
    return Status::ok();
  }

  void next_prompt() {
    current_ += stride_;
    done_ = 0;
    nll_ = 0;
  }

  // Everything to rank 0 of the replica.
  Result<std::vector<Evaluation>> gather() {
    Json own = Json::array();
    if (is_attention_dp() || groups_.tp->rank() == 0) {
      for (int i = 0; i < std::ssize(results_); ++i) {
        own.push_back(to_json(results_[i]));
        if (!has_logits()) own.back()["last_logits_top20"] = Json::array();
      }
    }
    dist::Communicator& all = *groups_.model;
    const std::string text = own.dump();
    const auto size = static_cast<int64_t>(text.size());
    std::vector<int64_t> sizes(static_cast<size_t>(all.size()));
    RETURN_IF_ERROR(all.all_gather(std::as_bytes(std::span(&size, 1)),
                                   std::as_writable_bytes(std::span(sizes))));
    std::string texts(static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0})),
                      ' ');
    RETURN_IF_ERROR(all.all_gather_v(std::as_bytes(std::span(text)), sizes,
                                     std::as_writable_bytes(std::span(texts))));
    if (all.rank() != 0) return std::vector<Evaluation>();
    std::vector<Evaluation> merged(prompts_.size());
    const char* piece = texts.data();
    for (const int64_t bytes : sizes) {
      const Json list = Json::parse(piece, piece + bytes);
      for (size_t i = 0; i < list.size(); ++i) merge(list[i], merged[i]);
      piece += bytes;
    }
    for (size_t i = 0; i < merged.size(); ++i) merged[i].name = prompts_[i].name;
    return merged;
  }

  const EvaluationJob& job_;
  models::Model& model_;
  const dist::Groups& groups_;
  const std::span<const EvaluationPrompt> prompts_;
  Stream& stream_;
  Buffer kv_;
  Buffer device_logits_;  // of the stream's device
  Buffer logits_;
  std::vector<int> pages_;
  std::vector<Evaluation> results_;

  int stride_ = 1;
  int current_ = 0;  // prompt
  int done_ = 0;     // tokens of it, greedy ones too, that the model has seen
  double nll_ = 0;   // sum over its tokens so far
};

Status check_prompts(const EvaluationJob& job, std::span<const EvaluationPrompt> prompts) {
  for (const EvaluationPrompt& prompt : prompts) {
    for (const int id : prompt.token_ids) {
      if (id >= 0 && id < job.model.vocab_size) continue;
      return Status::invalid_input(fmt::format("{}: token id {}: the model has {} tokens",
                                               prompt.name, id, job.model.vocab_size));
    }
    const int most = job.engine.max_seq_len.value_or(job.model.max_position_embeddings);
    const int64_t length = std::ssize(prompt.token_ids) + job.num_greedy;
    if (length <= most) continue;
    return Status::invalid_input(fmt::format(
        "{}: {} tokens with those to generate: max_seq_len is {}", prompt.name, length, most));
  }
  return Status::ok();
}

}  // namespace

Result<std::vector<EvaluationPrompt>> parse_evaluation_prompts(std::string_view json,
                                                               const std::string& name) {
  ASSIGN_OR_RETURN(const Json list, parse_json(json, name));
  if (!list.is_array()) return Status::invalid_input(name + ": must be a list of prompts");
  std::vector<EvaluationPrompt> prompts;
  for (size_t i = 0; i < list.size(); ++i) {
    const auto refuse = [&](std::string_view rule) {
      return Status::invalid_input(fmt::format("{}: entry {}: {}", name, i, rule));
    };
    const Json& entry = list[i];
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string()) {
      return refuse("must be an object with a string \"name\"");
    }
    const auto ids = entry.find("token_ids");
    if (ids == entry.end() || !ids->is_array() || ids->empty() ||
        !std::ranges::all_of(*ids, [](const Json& id) {
          return id.is_number_integer() && id >= 0 && id < (int64_t{1} << 31);
        })) {
      return refuse("\"token_ids\" must be a list of at least one token id");
    }
    prompts.push_back({entry["name"].get<std::string>(), ids->get<std::vector<int>>()});
  }
  return prompts;
}

std::string evaluations_json(std::span<const Evaluation> evaluations) {
  Json list = Json::array();
  for (const Evaluation& evaluation : evaluations) list.push_back(to_json(evaluation));
  return list.dump() + "\n";
}

Result<std::vector<Evaluation>> evaluate(const EvaluationJob& job,
                                         std::span<const EvaluationPrompt> prompts,
                                         ThreadPool& pool, dist::Communicator& world) {
  RETURN_IF_ERROR(check_prompts(job, prompts));
  ASSIGN_OR_RETURN(const Mapping mapping, Mapping::create(job.engine.parallel));
  ASSIGN_OR_RETURN(dist::Groups groups, dist::make_groups(mapping, world));
  ASSIGN_OR_RETURN(const auto source,
                   models::open_weights(job.engine.load_format, job.folder, job.model));
  models::ModelOptions options;
  options.config = &job.model;
  options.engine = &job.engine;
  options.mapping = &mapping;
  options.groups = &groups;
  options.source = source.get();
  options.weight_dtype = job.dtype;
  options.kv_dtype = models::unquantized(job.dtype);
  options.rope_frequency_dtype = job.rope_frequency_dtype;
  ASSIGN_OR_RETURN(const auto device, RankDevice::open(job.device, pool, world));
  ASSIGN_OR_RETURN(const auto model, models::Model::create(device->stream(), options));
  return Evaluator(job, *model, groups, prompts, device->stream()).run();
}

}  // namespace wideep::engine

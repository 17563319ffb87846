// wideep generate: answers to prompts, or a conversation, streamed to the terminal.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "cli/gather.h"
#include "tokenizer/chat_template.h"

namespace wideep::cli {
namespace {

using engine::GenerationEvent;
using engine::GenerationRequest;

struct GenerateArguments {
  EngineFlags engine;
  std::vector<std::string> prompts;
  bool chat = false;
  std::string system;
  int max_tokens = 128;
  kernels::SamplingParams sampling;
  std::vector<std::string> stops;
  bool ignore_eos = false;
};

struct Answer {
  std::string text;
  Status status;
};

void show(const std::string& text) {
  fmt::print("{}", text);
  std::fflush(stdout);
}

GenerationRequest request_of(const GenerateArguments& arguments, std::vector<int> prompt) {
  return {.prompt = std::move(prompt),
          .max_new_tokens = arguments.max_tokens,
          .sampling = arguments.sampling,
          .stop_token_ids = {},
          .stop_strings = arguments.stops,
          .ignore_eos = arguments.ignore_eos};
}

// Gives `prompt` to the engine; its answer, or its error, comes to `answer` while the queue is
// served. `stream`: the text is shown as it comes.
void submit(const GenerateArguments& arguments, Result<std::vector<int>> prompt, bool stream,
            engine::RequestQueue& queue, Answer& answer) {
  if (!prompt.is_ok()) {
    answer.status = prompt.status();
    return;
  }
  queue.submit(request_of(arguments, std::move(prompt).value()),
               [&answer, stream](const GenerationEvent& event) {
                 answer.text += event.text;
                 answer.status = event.status;
                 if (stream) show(event.text);
               });
}

Result<std::vector<int>> encode_prompt(const engine::Llm& llm, const std::string& text) {
  // A tokenizer may begin every text with a token of its own: then it would not be empty.
  if (text.empty()) return Status::invalid_input("the prompt is empty");
  return llm.tokenizer()->encode(text);
}

// The answers of all replicas, [prompts], from what each leader has of its own prompts.
Result<std::vector<Answer>> gather_answers(const engine::Llm& llm, dist::Communicator& world,
                                           const std::vector<Answer>& own) {
  std::string lines;
  for (size_t i = 0; i < own.size() && llm.is_leader(); ++i) {
    if (static_cast<int>(i) % llm.num_replicas() != llm.replica()) continue;
    lines += Json{i, own[i].text, own[i].status.message()}.dump() + "\n";
  }
  ASSIGN_OR_RETURN(const std::vector<char> all, gather<char>(world, lines));
  std::vector<Answer> answers(own.size());
  for (const std::string_view line : split({all.data(), all.size()}, '\n')) {
    if (line.empty()) continue;
    ASSIGN_OR_RETURN(const Json part, parse_json(line, "the answer of a replica"));
    Answer& answer = answers[part[0].get<size_t>()];
    answer.text = part[1].get<std::string>();
    if (const auto error = part[2].get<std::string>(); !error.empty()) {
      answer.status = Status::invalid_input(error);
    }
  }
  return answers;
}

// Prompt i goes to replica i mod replicas. What was wrong with prompts is `outcome` on rank 0.
Status answer_prompts(const GenerateArguments& arguments, engine::Llm& llm,
                      dist::Communicator& world, Status& outcome) {
  const bool stream = arguments.prompts.size() == 1;
  std::vector<Answer> own(arguments.prompts.size());
  engine::RequestQueue queue;
  for (size_t i = 0; i < own.size() && llm.is_leader(); ++i) {
    if (static_cast<int>(i) % llm.num_replicas() != llm.replica()) continue;
    submit(arguments, encode_prompt(llm, arguments.prompts[i]), stream, queue, own[i]);
  }
  queue.close();
  RETURN_IF_ERROR(llm.run(llm.is_leader() ? &queue : nullptr).status());
  ASSIGN_OR_RETURN(const std::vector<Answer> answers, gather_answers(llm, world, own));
  if (world.rank() != 0) return Status::ok();
  for (const Answer& answer : answers) {
    if (outcome.is_ok()) outcome = answer.status;
    if (!stream && answer.status.is_ok()) show(answer.text + "\n");
  }
  if (stream && outcome.is_ok()) show("\n");
  return Status::ok();
}

// The conversation, on rank 0.
class Conversation {
 public:
  static Result<Conversation> create(const GenerateArguments& arguments, const EngineJob& job) {
    ASSIGN_OR_RETURN(tokenizer::ChatTemplate chat_template,
                     tokenizer::ChatTemplate::load(job.folder));
    return Conversation(arguments, std::move(chat_template));
  }

  bool is_interactive() const { return prompts_.empty() && ::isatty(STDIN_FILENO) == 1; }

  // What the user says next: the prompts of the command line, else lines of standard input.
  std::optional<std::string> next_line() {
    if (!prompts_.empty()) {
      if (next_prompt_ == prompts_.size()) return std::nullopt;
      return prompts_[next_prompt_++];
    }
    std::string line;
    do {
      if (is_interactive()) fmt::print(stderr, "> ");
      if (!std::getline(std::cin, line)) return std::nullopt;
    } while (trim(line).empty());
    return line;
  }

  // The whole conversation with this message.
  Result<std::vector<int>> ask(const engine::Llm& llm, const std::string& text) {
    if (text.empty()) return Status::invalid_input("the prompt is empty");
    messages_.push_back({{"role", "user"}, {"content", text}});
    ASSIGN_OR_RETURN(const std::string prompt, template_.render({.messages = messages_}));
    return llm.tokenizer()->encode(prompt, {.add_special_tokens = false});
  }
  // Ends the turn: an answer stays in the conversation, a message without one does not.
  void end_turn(const Answer& answer) {
    if (answer.status.is_ok()) {
      messages_.push_back({{"role", "assistant"}, {"content", answer.text}});
    } else if (!messages_.empty() && messages_.back()["role"] == "user") {
      messages_.erase(messages_.size() - 1);
    }
  }

 private:
  Conversation(const GenerateArguments& arguments, tokenizer::ChatTemplate chat_template)
      : prompts_(arguments.prompts), template_(std::move(chat_template)) {
    if (arguments.system.empty()) return;
    messages_.push_back({{"role", "system"}, {"content", arguments.system}});
  }

  std::vector<std::string> prompts_;
  size_t next_prompt_ = 0;
  tokenizer::ChatTemplate template_;
  OrderedJson messages_ = OrderedJson::array();
};

// Turn after turn, each a run of the engine; the KV cache keeps what was said.
Status chat(const GenerateArguments& arguments, const EngineJob& job, engine::Llm& llm,
            dist::Communicator& world, Status& outcome) {
  if (llm.num_replicas() > 1) {
    return Status::invalid_input(
        fmt::format("--chat talks to one replica: there are {}", llm.num_replicas()));
  }
  std::optional<Conversation> conversation;
  if (llm.is_leader()) {
    ASSIGN_OR_RETURN(conversation, Conversation::create(arguments, job));
  }
  while (true) {
    std::optional<std::string> line;
    if (conversation && outcome.is_ok()) line = conversation->next_line();
    int64_t goes_on = line ? 1 : 0;
    RETURN_IF_ERROR(world.broadcast(std::as_writable_bytes(std::span(&goes_on, 1)), 0));
    if (goes_on == 0) return Status::ok();
    engine::RequestQueue queue;
    Answer answer;
    if (line) submit(arguments, conversation->ask(llm, *line), /*stream=*/true, queue, answer);
    queue.close();
    RETURN_IF_ERROR(llm.run(conversation ? &queue : nullptr).status());
    if (!conversation) continue;
    show("\n");
    conversation->end_turn(answer);
    if (conversation->is_interactive() && !answer.status.is_ok()) {
      fmt::print(stderr, "error: {}\n", answer.status.message());
    } else {
      outcome = answer.status;
    }
  }
}

Status run_rank(const GenerateArguments& arguments, const EngineJob& job, engine::Llm& llm,
                dist::Communicator& world, Status& outcome) {
  if (llm.is_leader() && llm.tokenizer() == nullptr) {
    return Status::invalid_input(job.folder + ": has no tokenizer.json: prompts cannot be read");
  }
  return arguments.chat ? chat(arguments, job, llm, world, outcome)
                        : answer_prompts(arguments, llm, world, outcome);
}

void run(const GenerateArguments& arguments) {
  if (arguments.prompts.empty() && !arguments.chat) {
    finish(Status::invalid_input("nothing to answer: give --prompt TEXT, or --chat"));
  }
  Status outcome;  // of the prompts; written by rank 0
  const bool speaks = run_engine(
      arguments.engine, [&](const EngineJob& job, engine::Llm& llm, dist::Communicator& world) {
        return run_rank(arguments, job, llm, world, outcome);
      });
  if (speaks) finish(outcome);
}

}  // namespace

void add_generate(CLI::App& parent) {
  CLI::App* command = parent.add_subcommand("generate", "Answer prompts");
  const auto arguments = std::make_shared<GenerateArguments>();
  add_engine_flags(*command, arguments->engine);
  add_metrics_flag(*command, arguments->engine);
  command->add_option("--prompt", arguments->prompts, "The text to go on from; may be repeated");
  command->add_flag("--chat", arguments->chat,
                    "A conversation: --prompt, or lines of standard input, are what the user says");
  command->add_option("--system", arguments->system, "With --chat: the system's message");
  command->add_option("--max_tokens", arguments->max_tokens, "Longest answer; default: 128 tokens")
      ->check(CLI::PositiveNumber);
  command->add_option("--temperature", arguments->sampling.temperature,
                      "0 (default): always the likeliest token");
  command->add_option("--top_k", arguments->sampling.top_k,
                      "Sample from the k likeliest tokens only; default: from all");
  command->add_option("--top_p", arguments->sampling.top_p,
                      "Sample from the likeliest tokens that reach this probability together");
  command->add_option("--seed", arguments->sampling.seed, "Of the sampling");
  command->add_option("--stop", arguments->stops, "Text that ends an answer; may be repeated");
  command->add_flag("--ignore_eos", arguments->ignore_eos,
                    "Go on at the model's end-of-sequence tokens");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace wideep::cli

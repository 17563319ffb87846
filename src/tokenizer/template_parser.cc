#include "tokenizer/template_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "tokenizer/template_expression_parser.h"

namespace wideep::tokenizer {
namespace {

using Kind = TemplateTokenKind;

constexpr int kMaxNesting = 50;  // of blocks

class StatementParser {
 public:
  explicit StatementParser(std::vector<TemplateToken> tokens)
      : cursor_(std::move(tokens)), expressions_(cursor_) {}

  Result<Block> parse_all() {
    ASSIGN_OR_RETURN(Block block, parse_block({}));
    if (cursor_.peek().kind != Kind::kEnd) return cursor_.unexpected("which begins nothing");
    return block;
  }

 private:
  // Statements up to a tag with one of the words, whose {% and word are taken; the word is in
  // end_word_. Without words: to the end of the template.
  Result<Block> parse_block(std::initializer_list<std::string_view> end_words) {
    Block block;
    for (;;) {
      const TemplateToken& token = cursor_.peek();
      if (token.kind == Kind::kEnd) {
        if (end_words.size() == 0) return block;
        return cursor_.unexpected(fmt::format("expected {{% {} %}}", *(end_words.end() - 1)));
      }
      if (token.kind == Kind::kText) {
        block.push_back(make(StatementKind::kText, token.line));
        block.back()->text = cursor_.take().text;
      } else if (token.kind == Kind::kOutputBegin) {
        block.push_back(make(StatementKind::kOutput, cursor_.take().line));
        ASSIGN_OR_RETURN(block.back()->expression, expressions_.parse_tuple());
        RETURN_IF_ERROR(expect(Kind::kOutputEnd, "expected }}"));
      } else {
        cursor_.take();
        if (std::ranges::find(end_words, cursor_.peek().text) != end_words.end()) {
          end_word_ = cursor_.take().text;
          return block;
        }
        RETURN_IF_ERROR(parse_statement(block));
      }
    }
  }

  static StatementPtr make(StatementKind kind, int line) {
    return std::make_unique<Statement>(Statement{.kind = kind, .line = line});
  }

  Status expect(Kind kind, std::string_view wanted) {
    if (cursor_.peek().kind != kind) return cursor_.unexpected(wanted);
    cursor_.take();
    return Status::ok();
  }
  Status expect_block_end() { return expect(Kind::kBlockEnd, "expected %}"); }

  // Behind {%.
  Status parse_statement(Block& block) {
    if (nesting_ >= kMaxNesting) {
      return template_error(cursor_.line(), "blocks that are nested too deeply");
    }
    ++nesting_;
    const Status status = parse_keyword(block);
    --nesting_;
    return status;
  }

  Status parse_keyword(Block& block) {
    const int line = cursor_.line();
    ASSIGN_OR_RETURN(const std::string word, cursor_.expect_name());
    if (word == "generation") {  // marks what an assistant says, for training
      RETURN_IF_ERROR(expect_block_end());
      ASSIGN_OR_RETURN(Block body, parse_block({"endgeneration"}));
      std::ranges::move(body, std::back_inserter(block));
      return expect_block_end();
    }
    StatementPtr statement;
    if (word == "if") {
      ASSIGN_OR_RETURN(statement, parse_if(line));
    } else if (word == "for") {
      ASSIGN_OR_RETURN(statement, parse_for(line));
    } else if (word == "set") {
      ASSIGN_OR_RETURN(statement, parse_set(line));
    } else if (word == "macro") {
      ASSIGN_OR_RETURN(statement, parse_macro(line));
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) return template_error(line, word + " outside of a loop");
      statement = make(word == "break" ? StatementKind::kBreak : StatementKind::kContinue, line);
    } else {
      return template_error(line, fmt::format("{{% {} %}} is not supported here", word));
    }
    block.push_back(std::move(statement));
    return expect_block_end();
  }

  Result<StatementPtr> parse_if(int line) {
    StatementPtr statement = make(StatementKind::kIf, line);
    do {
      ASSIGN_OR_RETURN(ExpressionPtr condition, expressions_.parse_tuple());
      RETURN_IF_ERROR(expect_block_end());
      ASSIGN_OR_RETURN(Block body, parse_block({"elif", "else", "endif"}));
      statement->branches.emplace_back(std::move(condition), std::move(body));
    } while (end_word_ == "elif");
    if (end_word_ == "else") {
      RETURN_IF_ERROR(expect_block_end());
      ASSIGN_OR_RETURN(statement->otherwise, parse_block({"endif"}));
    }
    return statement;
  }

  Result<StatementPtr> parse_for(int line) {
    StatementPtr statement = make(StatementKind::kFor, line);
    ASSIGN_OR_RETURN(statement->targets, parse_targets());
    if (!cursor_.skip_word("in")) return cursor_.unexpected("expected \"in\"");
    ASSIGN_OR_RETURN(statement->expression, expressions_.parse_or());
    if (cursor_.skip_word("if")) {
      ASSIGN_OR_RETURN(statement->filter, expressions_.parse());
    }
    if (cursor_.at_word("recursive")) {
      return template_error(line, "a recursive loop is not supported");
    }
    RETURN_IF_ERROR(expect_block_end());
    ++loops_;
    Result<Block> body = parse_block({"else", "endfor"});
    --loops_;
    RETURN_IF_ERROR(body.status());
    statement->body = std::move(body).value();
    if (end_word_ == "else") {
      RETURN_IF_ERROR(expect_block_end());
      ASSIGN_OR_RETURN(statement->otherwise, parse_block({"endfor"}));
    }
    return statement;
  }

  // a, b or (a, b)
  Result<std::vector<std::string>> parse_targets() {
    const bool parentheses = cursor_.skip_operator("(");
    std::vector<std::string> targets;
    do {
      ASSIGN_OR_RETURN(std::string name, parse_target());
      targets.push_back(std::move(name));
    } while (cursor_.skip_operator(","));
    if (parentheses) RETURN_IF_ERROR(cursor_.expect_operator(")"));
    return targets;
  }

  Result<std::string> parse_target() {
    static constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False",
                                                     "None", "loop",  "in",   "not",  "is"};
    if (std::ranges::find(kReserved, cursor_.peek().text) != std::end(kReserved)) {
      return cursor_.unexpected("which cannot be assigned to");
    }
    return cursor_.expect_name();
  }

  Result<StatementPtr> parse_set(int line) {
    StatementPtr statement = make(StatementKind::kSet, line);
    if (cursor_.peek_second().is(Kind::kOperator, ".")) {
      ASSIGN_OR_RETURN(statement->text, cursor_.expect_name());
      cursor_.take();
      ASSIGN_OR_RETURN(statement->attribute, cursor_.expect_name());
    } else {
      ASSIGN_OR_RETURN(statement->targets, parse_targets());
    }
    if (cursor_.skip_operator("=")) {
      ASSIGN_OR_RETURN(statement->expression, expressions_.parse_tuple());
      return statement;
    }
    if (cursor_.at_operator("|")) {
      return template_error(line, "a filter on a set block is not supported");
    }
    if (statement->targets.size() != 1) return cursor_.unexpected("expected \"=\"");
    statement->kind = StatementKind::kSetBlock;
    RETURN_IF_ERROR(expect_block_end());
    ASSIGN_OR_RETURN(statement->body, parse_block({"endset"}));
    return statement;
  }

  Result<StatementPtr> parse_macro(int line) {
    // What a macro sees is the top of the template, so it has to stand there.
    if (loops_ > 0 || in_macro_) {
      return template_error(line, "a macro inside of a loop or macro is not supported");
    }
    StatementPtr statement = make(StatementKind::kMacro, line);
    statement->macro = std::make_unique<MacroStatement>();
    MacroStatement& macro = *statement->macro;
    ASSIGN_OR_RETURN(macro.name, cursor_.expect_name());
    RETURN_IF_ERROR(cursor_.expect_operator("("));
    while (!cursor_.skip_operator(")")) {
      if (!macro.parameters.empty()) RETURN_IF_ERROR(cursor_.expect_operator(","));
      ASSIGN_OR_RETURN(std::string name, parse_target());
      ExpressionPtr fallback;
      if (cursor_.skip_operator("=")) {
        ASSIGN_OR_RETURN(fallback, expressions_.parse());
      }
      macro.parameters.emplace_back(std::move(name), std::move(fallback));
    }
    RETURN_IF_ERROR(expect_block_end());
    in_macro_ = true;
    Result<Block> body = parse_block({"endmacro"});
    in_macro_ = false;
    RETURN_IF_ERROR(body.status());
    macro.body = std::move(body).value();
    if (cursor_.peek().kind == Kind::kName) cursor_.take();  // endmacro may repeat the name
    return statement;
  }

  TokenCursor cursor_;
  ExpressionParser expressions_;
  std::string end_word_;
  int nesting_ = 0;
  int loops_ = 0;
  bool in_macro_ = false;
};

}  // namespace

Result<Block> parse_template(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<TemplateToken> tokens, tokenize_template(source));
  return StatementParser(std::move(tokens)).parse_all();
}

}  // namespace wideep::tokenizer

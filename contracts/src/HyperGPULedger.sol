// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title HyperGPULedger
/// @notice Seals the rounds of federated training runs and pays out what contributors earned.
/// @dev A session is one run. A commit costs the same however many nodes contribute: roots and model hashes are not
/// stored but folded into a head, a hash chain over the history. The head proves the history, or any part of it.
///
/// **Nobody can take back what a round granted.** A coordinator may turn dishonest at any moment, and a node may be
/// away for months. Therefore no later commit touches an earlier grant:
/// - A round grants only what it adds to `owed`, and every grant belongs to one round. A later root reaches the money
///   of its own round alone, whatever it says.
/// - A round's reward tree carries sums, and its total may not exceed what the round added to `owed`. A tree that
///   promises more grants nothing. So every proof that leads to the root is covered, even for an account that has never
///   seen the rest of the tree.
/// - The bits of an account's address give the place of its leaf. So a tree holds an account once, and one bit for each
///   round and account is enough to pay each grant once.
/// - The head after every round stays stored, and a grant may be claimed against any of them. So no number of later
///   commits undoes a claim or lengthens a proof, and whoever holds the history up to a round needs nothing newer.
/// - Grants do not lapse. A refund returns only what no round granted.
///
/// Three other designs were turned down. Cumulative amounts under the newest root make a claim cheap, but the next root
/// can take everything back. Cumulative amounts under any past root are no better: a root that grants all of `owed` to
/// the coordinator empties the pool before the others have claimed. Storing only every eighth head saves 17,000 gas a
/// commit, but a node that has lost touch with a dishonest coordinator may then lack up to seven commitments. The price
/// of the chosen design: a claim shows each round that it is for, at about 17,000 gas a round among 100 accounts.
///
/// The contract has no owner and cannot be upgraded. It does not check scores: they are the coordinator's word.
contract HyperGPULedger {
    enum Status {
        None,
        Open,
        Paused,
        Closed
    }

    /// @notice What one `commitRound` sealed. `owed` is what all rounds so far granted together.
    struct Commitment {
        uint64 round;
        bytes32 root;
        bytes32 model;
        bytes32 rewards;
        uint128 owed;
    }

    /// @notice One node's work in one round, as hashed into a leaf of the round's Merkle tree.
    /// @dev `round` is the round the node worked for, which may be earlier than the one that sealed it.
    struct Contribution {
        bytes32 session;
        uint64 round;
        uint32 index;
        address node;
        bytes32 baseModel;
        bytes32 updateHash;
        uint64 examples;
        bytes32 metricsHash;
        uint64 weight;
        uint256 score;
        uint256 reward;
    }

    /// @notice A node of a reward tree beside the path from a leaf to the root; the leaves below it grant `sum`.
    struct Sibling {
        bytes32 hash;
        uint96 sum;
    }

    /// @notice What `round` granted to an account, and the path from its leaf to the round's reward root.
    struct Grant {
        uint64 round;
        uint96 amount;
        Sibling[] proof;
    }

    /// @notice A session's state as `session` tells it; `head` is the newest.
    struct SessionState {
        address coordinator;
        uint64 next;
        uint64 lastCommit;
        Status status;
        uint256 pool;
        uint256 owed;
        bytes32 head;
        uint256 paid;
        address pendingCoordinator;
    }

    /// @dev Three slots, and the head after every round; the head after round 0 is the session's id. A commit writes
    /// the second slot and a new head, and reads the first slot and the last head.
    struct Session {
        address coordinator;
        uint96 pool;
        uint32 next;
        uint40 lastCommit;
        Status status;
        uint96 owed;
        uint96 paid;
        address pendingCoordinator;
        bytes32[2 ** 32] heads;
    }

    /// @notice Time after the last commit until the coordinator may take back what no round granted.
    uint256 public constant REFUND_DELAY = 90 days;

    mapping(bytes32 id => Session) private _sessions;
    mapping(bytes32 id => mapping(address account => mapping(uint256 word => uint256 rounds))) private _paid;

    event SessionOpened(bytes32 indexed id, address indexed coordinator, uint256 pool);
    event SessionFunded(bytes32 indexed id, address indexed from, uint256 amount, uint256 pool);
    event SessionPaused(bytes32 indexed id, bool paused);
    event SessionRefunded(bytes32 indexed id, address indexed to, uint256 amount);
    event CoordinatorProposed(bytes32 indexed id, address indexed from, address indexed to);
    event CoordinatorChanged(bytes32 indexed id, address indexed from, address indexed to);
    event RoundCommitted(
        bytes32 indexed id,
        uint64 indexed round,
        bytes32 root,
        bytes32 model,
        bytes32 rewards,
        uint256 owed,
        bytes32 head
    );
    event RewardClaimed(bytes32 indexed id, address indexed account, uint256 amount);

    error LedgerSessionExists(bytes32 id);
    error LedgerUnknownSession(bytes32 id);
    error LedgerSessionNotOpen(bytes32 id, Status status);
    error LedgerNotCoordinator(address caller, address coordinator);
    error LedgerNotPendingCoordinator(address caller, address pending);
    error LedgerWrongRound(uint64 given, uint64 expected);
    error LedgerOwedDecreased(uint256 given, uint256 previous);
    error LedgerPoolTooSmall(uint256 owed, uint256 pool);
    error LedgerPoolFull(uint256 wanted, uint256 pool);
    error LedgerTooLittle(uint256 given, uint256 missing);
    error LedgerUnknownHistory(bytes32 id);
    error LedgerRoundNotShown(uint64 round);
    error LedgerInvalidProof(address account, uint64 round, uint256 amount);
    error LedgerPromisesTooMuch(uint64 round, uint256 promised, uint256 granted);
    error LedgerNothingToClaim(address account);
    error LedgerOverpaid(uint256 paid, uint256 owed);
    error LedgerRefundTooEarly(uint256 until);
    error LedgerTransferFailed(address to, uint256 amount);
    error LedgerAmountTooLarge(uint256 amount);
    error LedgerZeroAmount();

    /// @notice The id of the session that `coordinator` opens here with `salt`.
    /// @dev The id binds chain, contract and coordinator. So nobody else can open the session first, and a signature
    /// over the id is worth nothing elsewhere.
    function sessionId(address coordinator, bytes32 salt) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), coordinator, salt));
    }

    /// @notice Opens a session; the value sent is its reward pool. Rounds are counted from 1.
    function open(bytes32 salt) external payable returns (bytes32 id) {
        id = sessionId(msg.sender, salt);
        Session storage s = _sessions[id];
        if (s.status != Status.None) revert LedgerSessionExists(id);
        s.coordinator = msg.sender;
        s.next = 1;
        s.lastCommit = uint40(block.timestamp);
        s.status = Status.Open;
        s.pool = _toUint96(msg.value);
        s.heads[0] = id;
        emit SessionOpened(id, msg.sender, msg.value);
    }

    /// @notice Seals the next round. It grants what it adds to `owed`, which never exceeds the pool.
    /// @param rewards Root of the sum tree of the round's `(session, account, amount)`; zero if it grants nothing.
    /// @param owed What all rounds so far granted together, this one included.
    function commitRound(bytes32 id, uint64 round, bytes32 root, bytes32 model, bytes32 rewards, uint128 owed)
        external
    {
        Session storage s = _sessions[id];
        _onlyCoordinator(id, s);
        if (s.status != Status.Open) revert LedgerSessionNotOpen(id, s.status);
        if (round != s.next) revert LedgerWrongRound(round, s.next);
        if (owed < s.owed) revert LedgerOwedDecreased(owed, s.owed);
        if (owed > s.pool) revert LedgerPoolTooSmall(owed, s.pool);
        bytes32 head = _chained(s.heads[round - 1], Commitment(round, root, model, rewards, owed));
        s.heads[round] = head;
        s.next = uint32(round) + 1;
        s.lastCommit = uint40(block.timestamp);
        s.owed = uint96(owed);
        emit RoundCommitted(id, round, root, model, rewards, owed, head);
    }

    /// @notice Adds to a session's pool; anyone may. In the end the coordinator gets what no round granted.
    function fund(bytes32 id) external payable {
        Session storage s = _sessions[id];
        if (s.status == Status.None) revert LedgerUnknownSession(id);
        if (s.status == Status.Closed) revert LedgerSessionNotOpen(id, s.status);
        if (msg.value == 0) revert LedgerZeroAmount();
        uint96 pool = _toUint96(s.pool + msg.value);
        s.pool = pool;
        emit SessionFunded(id, msg.sender, msg.value, pool);
    }

    /// @notice Lifts a session's pool to `pool` and sends back what that did not take; anyone may.
    /// @dev Unlike `fund` it cannot pay twice, however often the same top-up is sent.
    function fundTo(bytes32 id, uint128 pool) external payable {
        Session storage s = _sessions[id];
        if (s.status == Status.None) revert LedgerUnknownSession(id);
        if (s.status == Status.Closed) revert LedgerSessionNotOpen(id, s.status);
        if (pool <= s.pool) revert LedgerPoolFull(pool, s.pool);
        uint256 missing = pool - s.pool;
        if (msg.value < missing) revert LedgerTooLittle(msg.value, missing);
        s.pool = _toUint96(pool);
        if (msg.value > missing) _pay(msg.sender, msg.value - missing);
        emit SessionFunded(id, msg.sender, missing, pool);
    }

    /// @notice Pays `account` those of the grants that are not paid yet. Anyone may call it, at any time.
    /// @dev Grants that are paid already are passed over. Otherwise a stranger could make a claim of many rounds fail
    /// by claiming one of them first.
    /// @param before Head before the first commitment.
    /// @param history Commitments of consecutive rounds: from the round before the first grant's, or from round 1, to
    /// the last grant's or any later one.
    function claim(
        bytes32 id,
        address account,
        bytes32 before,
        Commitment[] calldata history,
        Grant[] calldata grants
    ) external returns (uint256 amount) {
        Session storage s = _sessions[id];
        if (s.status == Status.None) revert LedgerUnknownSession(id);
        if (!_isSealed(s, before, history)) revert LedgerUnknownHistory(id);
        mapping(uint256 word => uint256 rounds) storage paidRounds_ = _paid[id][account];
        for (uint256 i = 0; i < grants.length; ++i) {
            Grant calldata grant = grants[i];
            _checkGrant(id, account, grant, history);
            uint256 word = paidRounds_[grant.round >> 8];
            uint256 bit = 1 << (grant.round & 0xff);
            if (word & bit != 0) continue;
            paidRounds_[grant.round >> 8] = word | bit;
            amount += grant.amount;
        }
        if (amount == 0) revert LedgerNothingToClaim(account);
        uint256 paid = s.paid + amount;
        if (paid > s.owed) revert LedgerOverpaid(paid, s.owed); // cannot be: the trees' sums rule it out
        s.paid = uint96(paid);
        _pay(account, amount);
        emit RewardClaimed(id, account, amount);
    }

    /// @notice Stops or resumes commits. Claims go on either way.
    function setPaused(bytes32 id, bool paused) external {
        Session storage s = _sessions[id];
        _onlyCoordinator(id, s);
        if (s.status == Status.Closed) revert LedgerSessionNotOpen(id, s.status);
        s.status = paused ? Status.Paused : Status.Open;
        emit SessionPaused(id, paused);
    }

    /// @notice Closes a session that has been quiet for `REFUND_DELAY` and returns what no round granted. Claims go on.
    function refund(bytes32 id) external returns (uint256 amount) {
        Session storage s = _sessions[id];
        _onlyCoordinator(id, s);
        if (s.status == Status.Closed) revert LedgerSessionNotOpen(id, s.status);
        uint256 until = s.lastCommit + REFUND_DELAY;
        if (block.timestamp < until) revert LedgerRefundTooEarly(until);
        amount = s.pool - s.owed;
        s.status = Status.Closed;
        s.pool = s.owed;
        _pay(msg.sender, amount);
        emit SessionRefunded(id, msg.sender, amount);
    }

    /// @notice Offers the session to `to`, who must accept; zero withdraws the offer.
    function proposeCoordinator(bytes32 id, address to) external {
        Session storage s = _sessions[id];
        _onlyCoordinator(id, s);
        s.pendingCoordinator = to;
        emit CoordinatorProposed(id, msg.sender, to);
    }

    /// @notice Takes over a session that was offered to the caller.
    function acceptCoordinator(bytes32 id) external {
        Session storage s = _sessions[id];
        if (s.status == Status.None) revert LedgerUnknownSession(id);
        if (msg.sender != s.pendingCoordinator) revert LedgerNotPendingCoordinator(msg.sender, s.pendingCoordinator);
        address from = s.coordinator;
        s.coordinator = msg.sender;
        s.pendingCoordinator = address(0);
        emit CoordinatorChanged(id, from, msg.sender);
    }

    /// @notice A session's state; all zero if it does not exist.
    function session(bytes32 id) external view returns (SessionState memory) {
        Session storage s = _sessions[id];
        bytes32 head = s.next == 0 ? bytes32(0) : s.heads[s.next - 1];
        return SessionState(
            s.coordinator, s.next, s.lastCommit, s.status, s.pool, s.owed, head, s.paid, s.pendingCoordinator
        );
    }

    /// @notice Head after `round`; the session's id after round 0, zero after a round that is not committed.
    function headAfter(bytes32 id, uint32 round) external view returns (bytes32) {
        return _sessions[id].heads[round];
    }

    /// @notice Which of the rounds `256 * word` to `256 * word + 255` have been paid to `account`: the lowest bit first.
    function paidRounds(bytes32 id, address account, uint256 word) external view returns (uint256) {
        return _paid[id][account][word];
    }

    /// @notice Whether the session's history holds `contribution`.
    /// @param before Head before the round that sealed it.
    /// @param commitments That round and any number of those after it, in order.
    /// @param proof Merkle proof of the contribution under `commitments[0].root`.
    function verifyContribution(
        Contribution calldata contribution,
        bytes32[] calldata proof,
        bytes32 before,
        Commitment[] calldata commitments
    ) external view returns (bool) {
        if (!_isSealed(_sessions[contribution.session], before, commitments)) return false;
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(contribution))));
        return MerkleProof.verifyCalldata(proof, commitments[0].root, leaf);
    }

    /// @dev Whether `commitments` are the session's own, of consecutive rounds.
    function _isSealed(Session storage s, bytes32 before, Commitment[] calldata commitments) private view returns (bool) {
        if (commitments.length == 0) return false;
        uint64 last = commitments[commitments.length - 1].round;
        if (last >= s.next) return false;
        bytes32 head = before;
        for (uint256 i = 0; i < commitments.length; ++i) {
            head = _chained(head, commitments[i]);
        }
        return head == s.heads[last];
    }

    function _chained(bytes32 head, Commitment memory c) private pure returns (bytes32) {
        return keccak256(abi.encode(head, c.round, c.root, c.model, c.rewards, c.owed));
    }

    /// @dev Reverts unless `grant` is in the reward tree of its round, and the tree promises no more than the round
    /// added to `owed`. At depth `d` the `d`-th lowest bit of the account says whether the path goes right.
    function _checkGrant(bytes32 id, address account, Grant calldata grant, Commitment[] calldata history)
        private
        pure
    {
        uint256 first = history[0].round;
        uint256 at = grant.round < first ? history.length : grant.round - first;
        if (at >= history.length || (at == 0 && first != 1)) revert LedgerRoundNotShown(grant.round);
        uint256 granted = history[at].owed - (at == 0 ? 0 : history[at - 1].owed);
        bytes32 hash = keccak256(bytes.concat(keccak256(abi.encode(id, account, uint256(grant.amount)))));
        uint256 sum = grant.amount;
        Sibling[] calldata way = grant.proof;
        uint256 depth = way.length;
        for (uint256 i = 0; i < way.length; ++i) {
            --depth;
            (bytes32 other, uint256 otherSum) = (way[i].hash, way[i].sum);
            hash = (uint160(account) >> depth) & 1 == 0
                ? _joined(hash, sum, other, otherSum)
                : _joined(other, otherSum, hash, sum);
            sum += otherSum;
        }
        if (hash != history[at].rewards) revert LedgerInvalidProof(account, grant.round, grant.amount);
        if (sum > granted) revert LedgerPromisesTooMuch(grant.round, sum, granted);
    }

    /// @dev `keccak256(abi.encode(left, leftSum, right, rightSum))` at a third of the gas.
    function _joined(bytes32 left, uint256 leftSum, bytes32 right, uint256 rightSum)
        private
        pure
        returns (bytes32 hash)
    {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, left)
            mstore(add(free, 0x20), leftSum)
            mstore(add(free, 0x40), right)
            mstore(add(free, 0x60), rightSum)
            hash := keccak256(free, 0x80)
        }
    }

    function _onlyCoordinator(bytes32 id, Session storage s) private view {
        if (s.status == Status.None) revert LedgerUnknownSession(id);
        if (msg.sender != s.coordinator) revert LedgerNotCoordinator(msg.sender, s.coordinator);
    }

    /// @dev Last statement but the event: state is settled before the receiver runs.
    function _pay(address to, uint256 amount) private {
        (bool ok,) = to.call{value: amount}("");
        if (!ok) revert LedgerTransferFailed(to, amount);
    }

    function _toUint96(uint256 amount) private pure returns (uint96) {
        if (amount > type(uint96).max) revert LedgerAmountTooLarge(amount);
        return uint96(amount);
    }
}

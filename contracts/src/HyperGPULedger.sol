// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title HyperGPULedger
/// @notice Seals the rounds of federated training runs and pays out what contributors earned.
/// @dev A session is one run. It keeps six slots, all in one storage page, however many nodes contribute: roots and
/// model hashes are not stored but folded into `head`, a hash chain over the whole history. Whoever holds the history
/// off chain proves it, or any contribution in it, against that one word.
///
/// The contract has no owner, cannot be upgraded, and knows nothing of scores: they are the coordinator's word.
contract HyperGPULedger {
    enum Status {
        None,
        Open,
        Paused,
        Closed
    }

    /// @notice What one `commitRound` sealed.
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

    struct Session {
        address coordinator;
        uint48 next;
        uint40 lastCommit;
        Status status;
        uint128 pool;
        uint128 owed;
        bytes32 head;
        bytes32 rewards;
        uint128 paid;
        address pendingCoordinator;
    }

    /// @notice Time after the last commit until the coordinator may take back what nobody claimed.
    uint256 public constant CLAIM_WINDOW = 90 days;

    mapping(bytes32 id => Session) private _sessions;
    mapping(bytes32 id => mapping(address account => uint256)) private _claimed;

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
    event RewardClaimed(bytes32 indexed id, address indexed account, uint256 amount, uint256 cumulative);

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
    error LedgerInvalidProof(address account, uint256 cumulative);
    error LedgerNothingToClaim(address account, uint256 claimed);
    error LedgerOverpaid(uint256 paid, uint256 owed);
    error LedgerClaimsStillOpen(uint256 until);
    error LedgerTransferFailed(address to, uint256 amount);
    error LedgerAmountTooLarge(uint256 amount);
    error LedgerZeroAmount();

    /// @notice The id of the session that `coordinator` opens here with `salt`.
    /// @dev Binds chain, contract and coordinator, so nobody can open it first, and a signature over the id is worth
    /// nothing anywhere else.
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
        s.pool = _toUint128(msg.value);
        s.head = id;
        emit SessionOpened(id, msg.sender, msg.value);
    }

    /// @notice Seals the next round. `owed` is what all rounds so far earned together, and never exceeds the pool.
    /// @param rewards Root of the tree of `(session, account, cumulative)`; zero while nobody has earned anything.
    function commitRound(bytes32 id, uint64 round, bytes32 root, bytes32 model, bytes32 rewards, uint128 owed)
        external
    {
        Session storage s = _sessions[id];
        _onlyCoordinator(id, s);
        if (s.status != Status.Open) revert LedgerSessionNotOpen(id, s.status);
        if (round != s.next) revert LedgerWrongRound(round, s.next);
        if (owed < s.owed) revert LedgerOwedDecreased(owed, s.owed);
        if (owed > s.pool) revert LedgerPoolTooSmall(owed, s.pool);
        bytes32 head = _chained(s.head, Commitment(round, root, model, rewards, owed));
        s.next = uint48(round) + 1;
        s.lastCommit = uint40(block.timestamp);
        s.owed = owed;
        s.head = head;
        s.rewards = rewards;
        emit RoundCommitted(id, round, root, model, rewards, owed, head);
    }

    /// @notice Adds to a session's pool; anyone may.
    function fund(bytes32 id) external payable {
        Session storage s = _sessions[id];
        if (s.status == Status.None) revert LedgerUnknownSession(id);
        if (s.status == Status.Closed) revert LedgerSessionNotOpen(id, s.status);
        if (msg.value == 0) revert LedgerZeroAmount();
        uint128 pool = _toUint128(s.pool + msg.value);
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
        s.pool = pool;
        if (msg.value > missing) _pay(msg.sender, msg.value - missing);
        emit SessionFunded(id, msg.sender, missing, pool);
    }

    /// @notice Pays `account` what it earned and has not had yet. Anyone may send it; pausing does not stop it.
    /// @param cumulative All that the account earned so far, as in the reward tree.
    function claim(bytes32 id, address account, uint256 cumulative, bytes32[] calldata proof)
        external
        returns (uint256 amount)
    {
        Session storage s = _sessions[id];
        if (s.status == Status.None) revert LedgerUnknownSession(id);
        if (s.status == Status.Closed) revert LedgerSessionNotOpen(id, s.status);
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(id, account, cumulative))));
        if (!MerkleProof.verifyCalldata(proof, s.rewards, leaf)) revert LedgerInvalidProof(account, cumulative);
        uint256 had = _claimed[id][account];
        if (cumulative <= had) revert LedgerNothingToClaim(account, had);
        amount = cumulative - had;
        uint256 paid = s.paid + amount;
        if (paid > s.owed) revert LedgerOverpaid(paid, s.owed);
        _claimed[id][account] = cumulative;
        s.paid = uint128(paid);
        _pay(account, amount);
        emit RewardClaimed(id, account, amount, cumulative);
    }

    /// @notice Stops or resumes commits. Claims go on either way.
    function setPaused(bytes32 id, bool paused) external {
        Session storage s = _sessions[id];
        _onlyCoordinator(id, s);
        if (s.status == Status.Closed) revert LedgerSessionNotOpen(id, s.status);
        s.status = paused ? Status.Paused : Status.Open;
        emit SessionPaused(id, paused);
    }

    /// @notice Closes a session that has been quiet for `CLAIM_WINDOW` and returns what nobody claimed.
    function refund(bytes32 id) external returns (uint256 amount) {
        Session storage s = _sessions[id];
        _onlyCoordinator(id, s);
        if (s.status == Status.Closed) revert LedgerSessionNotOpen(id, s.status);
        uint256 until = s.lastCommit + CLAIM_WINDOW;
        if (block.timestamp < until) revert LedgerClaimsStillOpen(until);
        amount = s.pool - s.paid;
        s.status = Status.Closed;
        s.pool = s.paid;
        s.owed = s.paid;
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

    /// @notice All of a session's state; all zero if it does not exist.
    function session(bytes32 id) external view returns (Session memory) {
        return _sessions[id];
    }

    /// @notice What `account` has been paid from the session so far.
    function claimed(bytes32 id, address account) external view returns (uint256) {
        return _claimed[id][account];
    }

    /// @notice Whether the session's history holds `contribution`.
    /// @param before Head before the round that sealed it.
    /// @param commitments That round and all after it, in order.
    /// @param proof Merkle proof of the contribution under `commitments[0].root`.
    function verifyContribution(
        Contribution calldata contribution,
        bytes32[] calldata proof,
        bytes32 before,
        Commitment[] calldata commitments
    ) external view returns (bool) {
        bytes32 head = before;
        for (uint256 i = 0; i < commitments.length; ++i) {
            head = _chained(head, commitments[i]);
        }
        if (commitments.length == 0 || head != _sessions[contribution.session].head) return false;
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(contribution))));
        return MerkleProof.verifyCalldata(proof, commitments[0].root, leaf);
    }

    function _chained(bytes32 head, Commitment memory c) private pure returns (bytes32) {
        return keccak256(abi.encode(head, c.round, c.root, c.model, c.rewards, c.owed));
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

    function _toUint128(uint256 amount) private pure returns (uint128) {
        if (amount > type(uint128).max) revert LedgerAmountTooLarge(amount);
        return uint128(amount);
    }
}
